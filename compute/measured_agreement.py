"""How well scores along truncated gradients agree with full-rank ones, measured on a sample of documents.

Ranks that are chosen by the curvature's own assumptions (`compute/low_rank.py`: independent tokens, a independent of g)
promise an agreement; here it is looked at. D documents of the sample, N gradients, O outputs, I inputs.
"""

from __future__ import annotations

from collections.abc import Callable
from collections.abc import Sequence as SequenceOf
from dataclasses import dataclass
from itertools import chain

import torch
from torch import Tensor, nn

from compute.batches import Batch, Sequence
from compute.devices import input_device
from compute.low_rank import LowRankGradient
from compute.module_gradients import document_gradients
from compute.passes import accumulation_dtype, backward_passes
from compute.tracked_modules import TrackedModule

LEAST_DOCUMENTS = 3  # two points always lie on a line


@dataclass(frozen=True)
class AgreementSample:
    """The model, its tracked modules, and the documents that are scored, whose gradients are formed whole."""

    model: nn.Module
    modules: SequenceOf[TrackedModule]
    documents: SequenceOf[Sequence]
    token_budget: int

    def agreement(
        self, cut: SequenceOf[dict[str, LowRankGradient]], whole: Callable[[str, int], Tensor]
    ) -> list[float]:
        """Per gradient: Pearson's correlation of its scores, cut and whole.

        `whole` gives P_OI by a module's name and the gradient's number; it is asked again for each batch of documents,
        so that of whole gradients one module's are there at a time. nan where all scores of one are equal, or there are
        fewer than three documents. Raises BadInput naming a document whose loss is not finite.
        """
        if len(self.documents) < LEAST_DOCUMENTS or not cut:
            return [float("nan")] * len(cut)
        dtype, device = accumulation_dtype(self.model), input_device(self.model)
        # Of both kinds, cut first.
        scores_ND = torch.zeros(2 * len(cut), len(self.documents), dtype=dtype, device=device)

        def consume(batch: Batch, module: TrackedModule, activation_BTI: Tensor, gradient_BTO: Tensor) -> None:
            size = {"dtype": dtype, "device": gradient_BTO.device}
            directions_NP = torch.empty(len(scores_ND), module.out_features * module.in_dim, **size)
            kinds = (each[module.name].dense() for each in cut), (whole(module.name, n) for n in range(len(cut)))
            for row_P, direction_OI in zip(directions_NP, chain(*kinds), strict=True):
                row_P.copy_(direction_OI.flatten())
            formed = document_gradients(module, activation_BTI.to(dtype), gradient_BTO.to(dtype))
            scores_NB = torch.cat([directions_NP @ each_DOI.flatten(1).T for each_DOI in formed], 1).to(device)
            scores_ND.index_add_(1, batch.places.to(device), scores_NB)

        passes = backward_passes(self.model, self.modules, self.documents, consume, token_budget=self.token_budget)
        for _ in passes:
            pass
        return _pearson(*scores_ND.double().chunk(2)).tolist()


def _pearson(found_ND: Tensor, expected_ND: Tensor) -> Tensor:
    found_ND, expected_ND = (scores - scores.mean(1, keepdim=True) for scores in (found_ND, expected_ND))
    squares_N = found_ND.square().sum(1) * expected_ND.square().sum(1)
    return (found_ND * expected_ND).sum(1) / squares_N.sqrt()
