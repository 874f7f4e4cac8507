"""A curvature as methods use it: the metrics (H + λ)⁻¹ of EK-FAC and of K-FAC, and the norms of gradients in them.

O outputs, I inputs (with the bias column), S and A eigen-directions, D documents.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from compute.eigenbasis import ModuleEigenbasis
from compute.methods import Metric


@dataclass
class Curvature:
    """An EK-FAC fit: the eigenbasis and Λ_SA of each module by name, and `damping` as a multiple of mean(Λ).

    The two may be mappings that read a module's factors when they are asked for.

    `document_tokens` is the mean number of tokens, per document that it was fitted on, that reach each module, which
    K-FAC needs.
    """

    eigenbasis: Mapping[str, ModuleEigenbasis]
    eigenvalues: Mapping[str, Tensor]
    damping: float = 0.1
    document_tokens: dict[str, float] | None = None

    def precondition(self, name: str, gradient_OI: Tensor, metric: Metric = "ekfac") -> Tensor:
        """The inverse-curvature-vector product of one module's gradient; the gradient itself in the plain metric."""
        if metric == "plain":
            return gradient_OI
        basis = self.eigenbasis[name]
        return basis.rotate_back(self.divide(name, basis.rotate(gradient_OI), metric))

    def divide(self, name: str, rotated_SA: Tensor, metric: Metric = "ekfac") -> Tensor:
        """A gradient in the eigenbasis, divided by the damped eigenvalues; not divided in the plain metric."""
        return rotated_SA if metric == "plain" else rotated_SA / self._damped(name, metric)

    def damping_of(self, name: str) -> Tensor:
        """λ of one module, as EK-FAC has it."""
        return self.damping * self.eigenvalues[name].mean()

    def square(self, name: str, gradient_OI: Tensor, metric: Metric) -> Tensor:
        """What a module adds to a gradient's ⟨x, (H + λ)⁻¹ x⟩, to ⟨x, x⟩ in the plain metric."""
        if metric == "plain":
            return gradient_OI.square().sum()
        return self.whitened_squares(name, self.eigenbasis[name].rotate(gradient_OI)[None], metric)[0]

    def whitening(self, name: str, metric: Metric = "ekfac") -> Tensor:
        """(H + λ)^-½ in the eigenbasis, by which a gradient there is multiplied; zero where there is no curvature."""
        return self._damped(name, metric).rsqrt()

    def whitened_squares(self, name: str, rotated_DSA: Tensor, metric: Metric = "ekfac") -> Tensor:
        """Squared norms of one module's gradients, given in the eigenbasis, after whitening by (H + λ)^-½."""
        return (rotated_DSA.square() / self._damped(name, metric)).sum((1, 2))

    def _damped(self, name: str, metric: Metric) -> Tensor:
        """Eigenvalues + λ; infinite where the module has no curvature at all, so that dividing gives zero."""
        eigenvalues_SA = self.eigenvalues[name] if metric == "ekfac" else self._kfac_eigenvalues(name)
        damped_SA = eigenvalues_SA + self.damping * eigenvalues_SA.mean()
        # A direction that no document used must not divide by zero, whatever the damping.
        floor = torch.finfo(eigenvalues_SA.dtype).eps * eigenvalues_SA.max()
        # Without asking the device which of the two it is: the host would wait for it at every module.
        return damped_SA.clamp_(min=floor).masked_fill_(~(floor > 0), torch.inf)

    def _kfac_eigenvalues(self, name: str) -> Tensor:
        """Products of the eigenvalues of S and A, per document as Λ is."""
        if self.document_tokens is None:
            raise ValueError("kfac needs Curvature.document_tokens, the mean number of tokens that reach each module")
        basis = self.eigenbasis[name]
        # Rounding leaves a covariance without full rank with negative eigenvalues.
        values_S, values_A = basis.gradient_values_S.clamp(min=0), basis.activation_values_A.clamp(min=0)
        return self.document_tokens[name] * torch.outer(values_S, values_A)


def over(values: Tensor, norm: Tensor) -> Tensor:
    """Values divided by a norm, or along their last dimension by one each; zero where it is zero."""
    return torch.where(norm > 0, values / norm, 0.0)
