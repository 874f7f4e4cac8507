"""Norms of documents' gradients over all tracked modules, in the metrics in which methods divide by them.

‖G‖ falls out of scoring, or of the Gram matrices of a document's tokens; ‖(H + λ)^-½ G‖ costs one turn of each
document's gradient into the eigenbasis. B documents of a batch, T positions, I inputs, O outputs, D documents.
"""

from __future__ import annotations

from collections.abc import Iterable, Set

import torch
from torch import Tensor

from compute.curvature import Curvature
from compute.eigenvalues import rotated_gradients
from compute.methods import Metric
from compute.module_gradients import gradient_squares
from compute.tracked_modules import TrackedModule


class DocumentNorms:
    """Squares that are summed up module by module during a pass; metrics other than plain need the `curvature`."""

    def __init__(
        self, metrics: Iterable[Metric], documents: int, curvature: Curvature | None, dtype: torch.dtype, device
    ) -> None:
        self.curvature, self.dtype, self.device = curvature, dtype, device
        self.squares = {metric: torch.zeros(documents, dtype=dtype, device=device) for metric in metrics}
        if curvature is None and self.squares.keys() - {"plain"}:
            raise ValueError(f"norms in the metrics {sorted(self.squares)} need a curvature")

    def of_module(
        self, module: TrackedModule, activation_BTI: Tensor, gradient_BTO: Tensor, known: Set[Metric] = frozenset()
    ) -> dict[Metric, Tensor]:
        """Squared norms of one module's gradients, B of each metric but those that are `known`; not added up yet."""
        return {
            metric: self._squares(metric, module, activation_BTI, gradient_BTO).to(self.device, self.dtype)
            for metric in self.squares.keys() - known
        }

    def add(self, places_B: Tensor, squares: dict[Metric, Tensor]) -> None:
        """Adds one module's squares of a batch to those of the documents at these places, in place: it takes no memory,
        since both are on the device of the sums."""
        for metric, squares_B in squares.items():
            self.squares[metric].index_add_(0, places_B, squares_B)

    def of(self, metric: Metric, index_B: list[int] | slice = slice(None)) -> Tensor:
        """The norms of these documents, or of all."""
        return self.squares[metric][index_B].clamp(min=0).sqrt()

    def _squares(self, metric: Metric, module: TrackedModule, activation_BTI: Tensor, gradient_BTO: Tensor) -> Tensor:
        activation_BTI, gradient_BTO = activation_BTI.to(self.dtype), gradient_BTO.to(self.dtype)
        if metric == "plain":
            return gradient_squares(module, activation_BTI, gradient_BTO)
        chunks = rotated_gradients(module, self.curvature.eigenbasis[module.name], activation_BTI, gradient_BTO)
        return torch.cat([self.curvature.whitened_squares(module.name, each_DSA, metric) for each_DSA in chunks])
