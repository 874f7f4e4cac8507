"""Exact scores of the few documents that are shown: full-rank query gradients, per module and per token.

A position's share Σ_modules g_tᵀ P a_t is what flows through the weights at that position; it is shown on the token
at the position, which stands before the one predicted there (Grosse et al. 2023, section 5.2.3). The shares sum to
the score, also where a method divides it by the document's norm: each of them is divided. B documents of a batch, T
positions, I inputs (with the bias column), O outputs.
"""

from __future__ import annotations

from collections.abc import Sequence as SequenceOf
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from compute.batches import Batch, Sequence
from compute.curvature import Curvature
from compute.devices import input_device
from compute.document_norms import DocumentNorms
from compute.methods import norm_metric, norm_metrics
from compute.passes import OnBatch, accumulation_dtype, backward_passes
from compute.tracked_modules import TrackedModule

SPURIOUS_CONCENTRATION = 2 / 3
DENSE_BYTES = 2**30  # for full-rank query gradients that are held at once


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
    methods: SequenceOf[str] = (),
    curvature: Curvature | None = None,
    token_budget: int = 8192,
    on_batch: OnBatch | None = None,
) -> list[dict[int, ExactScore]]:
    """Per document, its score along each of the full-rank `directions` (P_OI per module) that `wanted` lists for it.

    Each document goes through the model once, whatever the number of directions. `methods` has the method of each
    direction, where some are of unit norm; trackstar needs the `curvature` as well.
    """
    dtype, device = accumulation_dtype(model), input_device(model)
    norms = DocumentNorms(norm_metrics(methods), len(documents), curvature, dtype, device)
    shares: dict[tuple[int, int], dict[str, Tensor]] = {}  # by document and direction, until its batch is done
    longest = max(map(len, documents), default=0)

    rows_of = _RowsByDirection(wanted)

    def consume(batch: Batch, module: TrackedModule, activation_BTI: Tensor, gradient_BTO: Tensor) -> None:
        activation_BTI, gradient_BTO = activation_BTI.to(dtype), gradient_BTO.to(dtype)
        squares = norms.of_module(module, activation_BTI, gradient_BTO)
        for direction, rows, rows_R in rows_of(batch, gradient_BTO.device):
            direction_OI = directions[direction][module.name].to(gradient_BTO.device, dtype)
            share_RT = _shares(module, activation_BTI[rows_R], gradient_BTO[rows_R], direction_OI)
            if batch.position_BT is not None:
                share_RT = _at_positions(share_RT, batch.position_BT[rows_R], longest)
            for row, share_T in zip(rows, share_RT.to(device), strict=True):
                index = batch.index_B[row]
                shares.setdefault((index, direction), {})[module.name] = share_T[: len(documents[index])]
        norms.add(batch.places.to(device), squares)

    results: list[dict[int, ExactScore]] = [{} for _ in documents]
    settings = {"token_budget": token_budget, "on_batch": on_batch, "remedy": "leave methods out of options.methods"}
    divisors = [norm_metric(method) for method in methods] or [None] * len(directions)
    for batch, _ in backward_passes(model, modules, documents, consume, **settings):
        norms_B = {metric: norms.of(metric, batch.places).tolist() for metric in norms.squares}
        pairs = [(row, direction) for row, index in enumerate(batch.index_B) for direction in wanted[index]]
        found = [shares.pop((batch.index_B[row], direction), {}) for row, direction in pairs]
        for (row, direction), share_T in zip(pairs, _brought_together(found), strict=True):
            index = batch.index_B[row]
            norm = norms_B[divisors[direction]][row] if divisors[direction] else None
            results[index][direction] = _gather(documents[index], modules, share_T, norm)
    return results


class _RowsByDirection:
    """Of a batch the rows that want a direction, as a list and as indices on a device, which is the same for every
    module and for what each expert sees of the batch: looked up once, and not copied to the device by each."""

    def __init__(self, wanted: SequenceOf[SequenceOf[int]]) -> None:
        self.wanted = wanted
        self._index_B: list[int] = []
        self._found: dict[torch.device, list[tuple[int, list[int], Tensor]]] = {}

    def __call__(self, batch: Batch, device: torch.device) -> list[tuple[int, list[int], Tensor]]:
        if batch.index_B is not self._index_B:
            self._index_B, self._found = batch.index_B, {}
        if device not in self._found:
            rows: dict[int, list[int]] = {}
            for row, index in enumerate(batch.index_B):
                for direction in self.wanted[index]:
                    rows.setdefault(direction, []).append(row)
            of_device = [(each, listed, torch.tensor(listed, device=device)) for each, listed in rows.items()]
            self._found[device] = of_device
        return self._found[device]


def _shares(module: TrackedModule, activation_RTI: Tensor, gradient_RTO: Tensor, direction_OI: Tensor) -> Tensor:
    """g_tᵀ P a_t at every position, of shape R×T for R documents."""
    directed_RTI = gradient_RTO @ direction_OI
    share_RT = (directed_RTI[..., : module.in_features] * activation_RTI).sum(-1)
    return share_RT + directed_RTI[..., -1] if module.has_bias else share_RT


def _at_positions(share_RC: Tensor, position_RC: Tensor, positions: int) -> Tensor:
    """The shares of a routed expert's tokens where they stand in their documents; columns without a token add 0."""
    return share_RC.new_zeros(len(share_RC), positions).scatter_add_(1, position_RC, share_RC)


def _brought_together(shares: list[dict[str, Tensor]]) -> list[dict[str, Tensor]]:
    """The shares of a batch on the CPU, where results are: in one copy, not one for each pair and module."""
    each = [share_T for of_pair in shares for share_T in of_pair.values()]
    parts = iter(torch.cat(each).cpu().split([len(share_T) for share_T in each]) if each else ())
    return [{name: next(parts) for name in of_pair} for of_pair in shares]


def _gather(
    document: Sequence, modules: SequenceOf[TrackedModule], share_T: dict[str, Tensor], norm: float | None
) -> ExactScore:
    """All shares divided by the norm where one is given; a document without a gradient has none. A routed expert that
    the document does not reach has a share of 0."""
    if norm is not None:
        share_T = {name: share / norm if norm else share for name, share in share_T.items()}
    token_scores_T = torch.stack(list(share_T.values())).sum(0) if share_T else torch.zeros(len(document))
    scores = {name: float(share.sum()) for name, share in share_T.items()}
    module_scores = {module.name: scores.get(module.name, 0.0) for module in modules}
    return ExactScore(document.key, sum(module_scores.values()), module_scores, token_scores_T.numpy())
