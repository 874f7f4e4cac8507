"""Stage 2 of EK-FAC: the eigenbasis Q_A, Q_S of each module's covariances, decomposed in float64.

Grosse et al. 2023, section 3.2 (equation 15); the eigenvalues of A and S are kept for the low rank of query
gradients. Diagonal blocks are decomposed each by itself: their eigenvectors are zero outside of the block. A:
eigen-directions of the inputs, S: of the outputs.
"""

from __future__ import annotations

import math
from collections import deque
from dataclasses import dataclass

import torch
from torch import Tensor

from compute.block_diagonal import Matrix, blocks_of, of_blocks, without_last_row
from compute.covariances import RECENT, ModuleCovariances


@dataclass
class ModuleEigenbasis:
    """Eigenvectors as columns, eigenvalues ascending (within each diagonal block), in the covariances' dtype."""

    activation_vectors_IA: Matrix
    activation_values_A: Tensor
    gradient_vectors_OS: Matrix
    gradient_values_S: Tensor

    def to(self, device: torch.device, dtype: torch.dtype) -> ModuleEigenbasis:
        return ModuleEigenbasis(
            self.activation_vectors_IA.to(device, dtype),
            self.activation_values_A.to(device, dtype),
            self.gradient_vectors_OS.to(device, dtype),
            self.gradient_values_S.to(device, dtype),
        )

    def rotate(self, gradient_OI: Tensor) -> Tensor:
        """Q_Sᵀ G Q_A, of shape S×A; of several gradients D×O×I at once, D×S×A."""
        return self.gradient_vectors_OS.T @ gradient_OI @ self.activation_vectors_IA

    def rotate_inputs(self, activation_BTI: Tensor, has_bias: bool) -> Tensor:
        """Each token's a Q_A; a bias adds a last input of 1."""
        if not has_bias:
            return activation_BTI @ self.activation_vectors_IA
        vectors_IA, bias_A = without_last_row(self.activation_vectors_IA)
        activation_BTA = activation_BTI @ vectors_IA
        activation_BTA += bias_A
        return activation_BTA

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
        self._recent: deque[tuple[Matrix, tuple[Tensor, Matrix]]] = deque(maxlen=RECENT)

    def of_module(self, covariances: ModuleCovariances) -> ModuleEigenbasis:
        """Both decompositions of one module."""
        activation_values_A, activation_vectors_IA = self._of_inputs(covariances.activation_II)
        gradient_values_S, gradient_vectors_OS = _eigh(covariances.gradient_OO)
        return ModuleEigenbasis(activation_vectors_IA, activation_values_A, gradient_vectors_OS, gradient_values_S)

    def _of_inputs(self, activation_II: Matrix) -> tuple[Tensor, Matrix]:
        for other_II, decomposed in self._recent:
            if _are_equal(other_II, activation_II):
                return decomposed
        self._recent.append((activation_II, _eigh(activation_II)))
        return self._recent[-1][1]


def _are_equal(one: Matrix, other: Matrix) -> bool:
    blocks, others = blocks_of(one), blocks_of(other)
    if len(blocks) != len(others) or blocks[0].device != others[0].device:
        return False
    return all(map(torch.equal, blocks, others))


def _eigh(matrix: Matrix) -> tuple[Tensor, Matrix]:
    values, vectors = zip(*map(_eigh_of_block, blocks_of(matrix)), strict=True)
    return values[0] if len(values) == 1 else torch.cat(values), of_blocks(vectors)


def _eigh_of_block(matrix_NN: Tensor) -> tuple[Tensor, Tensor]:
    symmetric_NN = matrix_NN.double()
    values_N, vectors_NN = torch.linalg.eigh((symmetric_NN + symmetric_NN.T) / 2)
    return values_N.to(matrix_NN.dtype), vectors_NN.to(matrix_NN.dtype)


#: Deviation of QᵀQ from the identity that float32 storage explains.
ROUNDING = 1e-4


def basis_defect(name: str, basis: ModuleEigenbasis) -> str | None:
    """Why the eigenvectors of module `name` are no orthonormal basis, or None."""
    for side, vectors in (("Q_A", basis.activation_vectors_IA), ("Q_S", basis.gradient_vectors_OS)):
        deviation = max(map(_deviation, blocks_of(vectors)), key=lambda each: math.inf if math.isnan(each) else each)
        if not deviation <= ROUNDING:  # also where it is NaN
            return f"{side} of {name} is not orthonormal: QᵀQ differs from the identity by {deviation:.1e}"
    return None


def _deviation(vectors_NN: Tensor) -> float:
    product_NN = vectors_NN.T @ vectors_NN
    product_NN.diagonal().sub_(1)
    return product_NN.abs().max().item()
