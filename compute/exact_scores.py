"""Exact scores of the few documents that are shown: full-rank query gradients, per module and per token.

A position's share Σ_modules g_tᵀ P a_t is what flows through the weights at that position; it is shown on the token
at the position, which stands before the one predicted there (Grosse et al. 2023, section 5.2.3). The shares sum to
the score. B documents of a batch, T positions, I inputs (with the bias column), O outputs.
"""

from __future__ import annotations

from collections.abc import Sequence as SequenceOf
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from compute.batches import Sequence
from compute.covariances import OnBatch
from compute.passes import accumulation_dtype, batches_for, captured
from compute.token_loss import run_batch
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
    directions: SequenceOf[dict[str, Tensor]],
    documents: SequenceOf[Sequence],
    wanted: SequenceOf[SequenceOf[int]],
    *,
    token_budget: int = 8192,
    on_batch: OnBatch | None = None,
) -> list[dict[int, ExactScore]]:
    """Per document, its score along each of the full-rank `directions` (P_OI per module) that `wanted` lists for it.

    Each document goes through the model once, whatever the number of directions.
    """
    dtype, device = accumulation_dtype(model), next(model.parameters()).device
    rows_of: dict[int, list[int]] = {}
    shares: dict[int, dict[str, Tensor]] = {}

    def consume(module: TrackedModule, activation_BTI: Tensor, gradient_BTO: Tensor) -> None:
        activation_BTI, gradient_BTO = activation_BTI.to(dtype), gradient_BTO.to(dtype)
        for direction, rows in rows_of.items():
            direction_OI = directions[direction][module.name].to(device, dtype)
            shares.setdefault(direction, {})[module.name] = _shares(
                module, activation_BTI[rows], gradient_BTO[rows], direction_OI
            )

    results: list[dict[int, ExactScore]] = [{} for _ in documents]
    with captured(model, modules, consume):
        for batch in batches_for(model, documents, token_budget):
            rows_of.clear()
            shares.clear()
            for row, index in enumerate(batch.index_B):
                for direction in wanted[index]:
                    rows_of.setdefault(direction, []).append(row)
            run_batch(model, batch)
            for direction, rows in rows_of.items():
                for place, row in enumerate(rows):
                    index = batch.index_B[row]
                    share_T = {name: share_RT[place] for name, share_RT in shares[direction].items()}
                    results[index][direction] = _gather(documents[index], share_T)
            if on_batch:
                on_batch(len(batch.keys_B), batch.tokens)
    return results


def _shares(module: TrackedModule, activation_RTI: Tensor, gradient_RTO: Tensor, direction_OI: Tensor) -> Tensor:
    """g_tᵀ P a_t at every position, of shape R×T for R documents."""
    directed_RTI = gradient_RTO @ direction_OI
    share_RT = (directed_RTI[..., : module.in_features] * activation_RTI).sum(-1)
    return share_RT + directed_RTI[..., -1] if module.has_bias else share_RT


def _gather(document: Sequence, share_T: dict[str, Tensor]) -> ExactScore:
    token_scores_T = torch.stack(list(share_T.values())).sum(0)[: len(document)]
    module_scores = {name: float(share.sum()) for name, share in share_T.items()}
    return ExactScore(document.key, sum(module_scores.values()), module_scores, token_scores_T.cpu().numpy())
