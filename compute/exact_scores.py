"""Exact scores of the few documents that are shown: full-rank query gradients, per module and per token.

A position's share Σ_modules g_tᵀ P a_t is what flows through the weights at that position; it is shown on the token at the
position, which stands before the one predicted there (Grosse et al. 2023, section 5.2.3). The shares sum to the score.
B documents of a batch, T positions, I inputs (with the bias column), O outputs.
"""

from __future__ import annotations

from collections.abc import Sequence as SequenceOf
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from compute.batches import Sequence, make_batches
from compute.passes import accumulation_dtype, captured, run_batch
from compute.tracked_modules import TrackedModule

SPURIOUS_CONCENTRATION = 2 / 3


@dataclass
class ExactScore:
    """One query–document pair: its score, the score per module name, and per token."""

    key: str
    score: float
    module_scores: dict[str, float]
    token_scores_T: np.ndarray

    @property
    def concentration(self) -> float:
        """L2/L1 of the token scores: 1 where a single token carries everything."""
        total = float(np.abs(self.token_scores_T).sum())
        return float(np.linalg.norm(self.token_scores_T)) / total if total else 0.0

    @property
    def likely_spurious(self) -> bool:
        """Grosse et al. 2023, appendix: concentration above 2/3 marks a likely spurious hit."""
        return self.concentration > SPURIOUS_CONCENTRATION


def exact_scores(
    model: nn.Module,
    modules: SequenceOf[TrackedModule],
    direction: dict[str, Tensor],
    documents: SequenceOf[Sequence],
    *,
    token_budget: int = 8192,
) -> list[ExactScore]:
    """Scores of `documents`, in their order, along one query's full-rank `direction` (P_OI per module name)."""
    dtype, device = accumulation_dtype(model), next(model.parameters()).device
    shares: dict[str, Tensor] = {}
    results: dict[int, ExactScore] = {}

    def consume(module: TrackedModule, activation_BTI: Tensor, gradient_BTO: Tensor) -> None:
        direction_OI = direction[module.name].to(device, dtype)
        directed_BTI = gradient_BTO.to(dtype) @ direction_OI
        share_BT = (directed_BTI[..., : module.in_features] * activation_BTI.to(dtype)).sum(-1)
        shares[module.name] = share_BT + directed_BTI[..., -1] if module.has_bias else share_BT

    with captured(model, modules, consume):
        for batch in make_batches(documents, token_budget=token_budget, device=device):
            run_batch(model, batch)
            for row, index in enumerate(batch.index_B):
                results[index] = _gather(documents[index], {name: share[row] for name, share in shares.items()})
    return [results[index] for index in range(len(documents))]


def _gather(document: Sequence, share_T: dict[str, Tensor]) -> ExactScore:
    token_scores_T = torch.stack(list(share_T.values())).sum(0)[: len(document)]
    module_scores = {name: float(share.sum()) for name, share in share_T.items()}
    return ExactScore(document.key, sum(module_scores.values()), module_scores, token_scores_T.cpu().numpy())
