"""Influence: the scores of documents for all queries at once, in one pass over the documents.

Score of document d for query q: Σ_modules ⟨P_q, ∇L(d)⟩ with P_q the query's (preconditioned) gradient; positive means
that weighting the document up lowers the loss of the query's completion. Each module takes the cheaper of two routes:

- factors: Σ_t (g_t U)·(a_t V) with P = U Vᵀ, no document gradient formed; best for few queries or wide modules;
- formed: the document's gradient G = Σ_t g_t aᵀ_t, then one product with all queries' dense gradients; best for many.

The document's gradient norm ‖∇L(d)‖ over the tracked modules falls out of G, or out of the Gram matrices of a and g.
B documents of a batch, T positions, I inputs (with the bias column), O outputs, Q queries (times methods), R rank.
"""

from __future__ import annotations

from collections.abc import Sequence as SequenceOf
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from compute.batches import Batch, Sequence
from compute.low_rank import LowRankGradient
from compute.module_gradients import ELEMENTS_AT_ONCE, document_gradients
from compute.passes import OnBatch, accumulation_dtype, backward_passes
from compute.tracked_modules import TrackedModule

DENSE_BUDGET_BYTES = 2**30  # what the formed route may keep of dense query gradients


@dataclass
class Scores:
    """Scores Q×D in the orders given, and per document its gradient norm and its summed loss in nats."""

    scores_QD: np.ndarray
    norms_D: np.ndarray
    loss_D: np.ndarray


class InfluencePass:
    """All queries' gradients, laid out once for as many shards as follow.

    `gradients` holds one dictionary of factors per query (and method); `typical_tokens` is the length of document
    that routes are chosen for.
    """

    def __init__(
        self,
        model: nn.Module,
        modules: SequenceOf[TrackedModule],
        gradients: SequenceOf[dict[str, LowRankGradient]],
        *,
        typical_tokens: int = 256,
        dense_budget_bytes: int = DENSE_BUDGET_BYTES,
    ) -> None:
        self.model, self.modules, self.queries = model, tuple(modules), len(gradients)
        self.dtype, self.device = accumulation_dtype(model), next(model.parameters()).device
        self.routes: dict[str, _FactorRoute | _FormedRoute] = {}
        for module in self.modules:
            factors = [gradient[module.name] for gradient in gradients]
            size = len(factors) * module.out_features * module.in_dim * self.dtype.itemsize
            formed = size <= dense_budget_bytes and _forming_is_cheaper(module, factors, typical_tokens)
            dense_budget_bytes -= size * formed
            route = _FormedRoute if formed else _FactorRoute
            self.routes[module.name] = route(module, factors, self.dtype, self.device)

    def route_names(self) -> dict[str, str]:
        """The route that each module takes, for the record of a run."""
        return {name: "formed" if isinstance(route, _FormedRoute) else "factors" for name, route in self.routes.items()}

    def score(
        self, documents: SequenceOf[Sequence], *, token_budget: int = 8192, on_batch: OnBatch | None = None
    ) -> Scores:
        """Scores of `documents`, whatever their order. Raises BadInput naming a document whose loss is not finite."""
        scores_QD = torch.zeros(self.queries, len(documents), dtype=self.dtype, device=self.device)
        squares_D = torch.zeros(len(documents), dtype=self.dtype, device=self.device)
        loss_D = torch.zeros(len(documents), dtype=torch.float64)

        def consume(batch: Batch, module: TrackedModule, activation_BTI: Tensor, gradient_BTO: Tensor) -> None:
            scores_BQ, squares_B = self.routes[module.name].score(
                activation_BTI.to(self.dtype), gradient_BTO.to(self.dtype)
            )
            scores_QD[:, batch.index_B] += scores_BQ.T
            squares_D[batch.index_B] += squares_B

        settings = {"token_budget": token_budget, "on_batch": on_batch}
        for batch, loss_B in backward_passes(self.model, self.modules, documents, consume, **settings):
            loss_D[batch.index_B] = loss_B
        return Scores(scores_QD.cpu().numpy(), squares_D.clamp_(min=0).sqrt().cpu().numpy(), loss_D.numpy())


def score_documents(
    model: nn.Module,
    modules: SequenceOf[TrackedModule],
    gradients: SequenceOf[dict[str, LowRankGradient]],
    documents: SequenceOf[Sequence],
    *,
    token_budget: int = 8192,
    on_batch: OnBatch | None = None,
    **settings,
) -> Scores:
    """One list of documents scored for all queries; `InfluencePass` is the same for many lists."""
    influence_pass = InfluencePass(model, modules, gradients, **settings)
    return influence_pass.score(documents, token_budget=token_budget, on_batch=on_batch)


def _forming_is_cheaper(module: TrackedModule, factors: list[LowRankGradient], tokens: int) -> bool:
    """Multiplications per document: both routes with the norm, which the formed route has for nothing."""
    outputs, inputs = module.out_features, module.in_dim
    form = tokens * outputs * inputs + len(factors) * outputs * inputs
    total_rank = sum(factor.rank for factor in factors)
    norm = min(tokens * tokens * (outputs + inputs), tokens * outputs * inputs)
    return form <= tokens * total_rank * (outputs + inputs) + norm


class _FormedRoute:
    def __init__(self, module: TrackedModule, factors: list[LowRankGradient], dtype, device) -> None:
        self.module = module
        self.dense_QP = torch.empty(len(factors), module.out_features * module.in_dim, dtype=dtype, device=device)
        for row_P, factor in zip(self.dense_QP, factors, strict=True):
            torch.mm(
                factor.left_OR.to(device, dtype),
                factor.right_IR.to(device, dtype).T,
                out=row_P.view(module.out_features, module.in_dim),
            )

    def score(self, activation_BTI: Tensor, gradient_BTO: Tensor) -> tuple[Tensor, Tensor]:
        scores, squares = [], []
        for gradient_DOI in document_gradients(self.module, activation_BTI, gradient_BTO):
            gradient_DP = gradient_DOI.flatten(1)
            scores.append(gradient_DP @ self.dense_QP.T)
            squares.append(torch.linalg.vecdot(gradient_DP, gradient_DP))
        return torch.cat(scores), torch.cat(squares)


class _FactorRoute:
    def __init__(self, module: TrackedModule, factors: list[LowRankGradient], dtype, device) -> None:
        self.module, self.ranks = module, [factor.rank for factor in factors]
        # Queries side by side as columns: one product projects a token onto the directions of all of them.
        self.left_OK = torch.cat([factor.left_OR for factor in factors], 1).to(device, dtype)
        self.right_IK = torch.cat([factor.right_IR for factor in factors], 1).to(device, dtype)
        query_K = torch.repeat_interleave(torch.arange(len(factors)), torch.tensor(self.ranks))
        self.query_K = query_K.to(device)

    def score(self, activation_BTI: Tensor, gradient_BTO: Tensor) -> tuple[Tensor, Tensor]:
        columns_at_once = max(1, ELEMENTS_AT_ONCE // activation_BTI.shape[:2].numel())
        scores_BQ = activation_BTI.new_zeros(len(activation_BTI), len(self.ranks))
        for columns in torch.arange(len(self.query_K), device=self.query_K.device).split(columns_at_once):
            first, last = int(columns[0]), int(columns[-1]) + 1
            projected_BTk = activation_BTI @ self.right_IK[: self.module.in_features, first:last]
            if self.module.has_bias:
                projected_BTk += self.right_IK[-1, first:last]
            products_Bk = projected_BTk.mul_(gradient_BTO @ self.left_OK[:, first:last]).sum(1)
            scores_BQ.index_add_(1, self.query_K[columns], products_Bk)
        return scores_BQ, self._squares(activation_BTI, gradient_BTO)

    def _squares(self, activation_BTI: Tensor, gradient_BTO: Tensor) -> Tensor:
        """‖Σ_t g_t aᵀ_t‖² = Σ_tt' (g_t·g_t')(a_t·a_t'), or from the formed gradient where documents are long."""
        _, positions, inputs = activation_BTI.shape
        outputs = gradient_BTO.shape[2]
        if positions * (inputs + outputs) > inputs * outputs:
            chunks = document_gradients(self.module, activation_BTI, gradient_BTO)
            return torch.cat([gradient_DOI.square_().sum((1, 2)) for gradient_DOI in chunks])
        gram_BTT = activation_BTI @ activation_BTI.transpose(1, 2)
        gram_BTT += self.module.has_bias  # the bias column of ones adds 1 to every inner product
        return gram_BTT.mul_(gradient_BTO @ gradient_BTO.transpose(1, 2)).sum((1, 2))
