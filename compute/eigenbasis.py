"""Stage 2 of EK-FAC: the eigenbasis Q_A, Q_S of each module's covariances, decomposed in float64.

Grosse et al. 2023, section 3.2 (equation 15); the eigenvalues of A and S are kept for the low rank of query
gradients. A: eigen-directions of the inputs, S: of the outputs.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass

import torch
from torch import Tensor

from compute.covariances import ModuleCovariances

RECENT = 2  # inputs: between two modules that share one there is one other at most (k, o, q, v by name)


@dataclass
class ModuleEigenbasis:
    """Eigenvectors as columns, eigenvalues ascending, in the covariances' dtype."""

    activation_vectors_IA: Tensor
    activation_values_A: Tensor
    gradient_vectors_OS: Tensor
    gradient_values_S: Tensor

    def to(self, device: torch.device, dtype: torch.dtype) -> ModuleEigenbasis:
        return ModuleEigenbasis(
            self.activation_vectors_IA.to(device, dtype),
            self.activation_values_A.to(device, dtype),
            self.gradient_vectors_OS.to(device, dtype),
            self.gradient_values_S.to(device, dtype),
        )

    def rotate(self, gradient_OI: Tensor) -> Tensor:
        """Q_Sᵀ G Q_A, of shape S×A."""
        return self.gradient_vectors_OS.T @ gradient_OI @ self.activation_vectors_IA

    def rotate_back(self, rotated_SA: Tensor) -> Tensor:
        """Q_S G̃ Q_Aᵀ, of shape O×I."""
        return self.gradient_vectors_OS @ rotated_SA @ self.activation_vectors_IA.T


def decompose(covariances: dict[str, ModuleCovariances]) -> dict[str, ModuleEigenbasis]:
    """The eigenbasis of each module."""
    decomposition = Decomposition()
    return {name: decomposition.of_module(module) for name, module in covariances.items()}


class Decomposition:
    """Decomposes one module after the other, so that a caller need not hold all modules at once.

    Modules that share their input have the same A, and stand close to each other: it is decomposed once.
    """

    def __init__(self) -> None:
        self._recent: deque[tuple[Tensor, tuple[Tensor, Tensor]]] = deque(maxlen=RECENT)

    def of_module(self, covariances: ModuleCovariances) -> ModuleEigenbasis:
        """Both decompositions of one module."""
        activation_values_A, activation_vectors_IA = self._of_inputs(covariances.activation_II)
        gradient_values_S, gradient_vectors_OS = _eigh(covariances.gradient_OO)
        return ModuleEigenbasis(activation_vectors_IA, activation_values_A, gradient_vectors_OS, gradient_values_S)

    def _of_inputs(self, activation_II: Tensor) -> tuple[Tensor, Tensor]:
        for other_II, decomposed in self._recent:
            if torch.equal(other_II, activation_II):
                return decomposed
        self._recent.append((activation_II, _eigh(activation_II)))
        return self._recent[-1][1]


def _eigh(matrix_NN: Tensor) -> tuple[Tensor, Tensor]:
    symmetric_NN = matrix_NN.double()
    values_N, vectors_NN = torch.linalg.eigh((symmetric_NN + symmetric_NN.T) / 2)
    return values_N.to(matrix_NN.dtype), vectors_NN.to(matrix_NN.dtype)


#: Deviation of QᵀQ from the identity that float32 storage explains.
ROUNDING = 1e-4


def basis_defect(name: str, basis: ModuleEigenbasis) -> str | None:
    """Why the eigenvectors of module `name` are no orthonormal basis, or None."""
    for side, vectors_NN in (("Q_A", basis.activation_vectors_IA), ("Q_S", basis.gradient_vectors_OS)):
        product_NN = vectors_NN.T @ vectors_NN
        product_NN.diagonal().sub_(1)
        deviation = product_NN.abs().max().item()
        if not deviation <= ROUNDING:  # also where it is NaN
            return f"{side} of {name} is not orthonormal: QᵀQ differs from the identity by {deviation:.1e}"
    return None
