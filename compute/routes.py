"""Routes from a module's activations and output gradients to scores, and what each costs.

Score of document d for query q at one module: ⟨P_q, G_d⟩ with G_d = Σ_t g_t aᵀ_t and P_q = U_q V_qᵀ of a low rank. The
same number comes out of three orders of multiplication, and each module takes the one that costs least:

- factors: Σ_t (g_t U)·(a_t V), no gradient of a document is formed; for few queries or short documents;
- formed: G, then one product with the dense gradients of all queries, which are kept; for many;
- rebuilt: the same with dense gradients that are made of their factors for each batch, some queries at a time; for so
  many queries that their dense gradients do not fit into the budget of memory.

B documents of a batch, T positions, I inputs (with the bias column), O outputs, Q queries (times methods), R rank, K
the ranks of all queries together.
"""

from __future__ import annotations

from collections.abc import Iterator
from collections.abc import Sequence as SequenceOf
from dataclasses import dataclass

import torch
from torch import Tensor

from compute.low_rank import LowRankGradient
from compute.module_gradients import document_gradients, gradient_squares, squared_norms, sum_dtype
from compute.tracked_modules import TrackedModule

ELEMENTS_AT_ONCE = 2**24  # of projections, 64 MiB in float32
# Measured in units of the factor side's multiplications (docs/log.md): products per document are small matrices, and a
# product with the dense queries reads all of these, however few documents there are.
FORMING, GRAM = 2.0, 1.7
DOCUMENTS_PER_PRODUCT = 48
FORMED_SHARE = 4  # of the budget one such part is for documents' gradients or rebuilt ones of queries
PARTS = {"factors": 0, "formed": 1, "rebuilt": 2}  # that this part is divided into


@dataclass(frozen=True)
class Workload:
    """What routes are chosen for: a typical document's tokens, documents per batch, and what may be kept in memory."""

    tokens: int
    documents: int
    memory_bytes: int
    bytes_per_entry: int = 4

    @property
    def formed_bytes(self) -> int:
        """What gradients that are formed and let go may take at a time."""
        return self.memory_bytes // FORMED_SHARE


@dataclass(frozen=True)
class Choice:
    """The route of a module, and what each would take, as multiples of the module's own forward pass: in time, by what
    products were measured to take, and in multiplications."""

    route: str
    costs: dict[str, float]
    multiplications: dict[str, float]


def choose(module: TrackedModule, ranks: SequenceOf[int], workload: Workload, dense_bytes: int) -> Choice:
    """The cheapest route for queries of these ranks, where `dense_bytes` are left for dense gradients.

    The norms of documents' gradients are included; they come for nothing where gradients are formed.
    """
    outputs, inputs = module.out_features, module.in_dim
    tokens = max(1, round(workload.tokens * module.token_share))
    entries, forward = outputs * inputs, tokens * outputs * inputs
    product, factors = len(ranks) * entries, tokens * sum(ranks) * (outputs + inputs)
    norm = min(forward, tokens * tokens * (outputs + inputs))
    # Of what is rebuilt, half of what may be formed is for documents' gradients.
    half = _documents_at_once(workload, entries, PARTS["rebuilt"])
    rebuilt = sum(ranks) * entries * -(-workload.documents // half) / workload.documents
    multiplications = {"factors": factors + norm, "formed": forward + product, "rebuilt": forward + product + rebuilt}
    at_once = _documents_at_once(workload, entries, PARTS["formed"])
    costs = {
        "factors": factors + (FORMING if norm == forward else GRAM) * norm,
        "formed": FORMING * forward + product * max(1, DOCUMENTS_PER_PRODUCT / at_once),
        "rebuilt": FORMING * forward + product * max(1, DOCUMENTS_PER_PRODUCT / half) + rebuilt,
    }
    fits = len(ranks) * entries * workload.bytes_per_entry <= dense_bytes
    route = min((name for name in costs if name != "formed" or fits), key=costs.__getitem__)
    return Choice(route, *({name: each / forward for name, each in of.items()} for of in (costs, multiplications)))


def _documents_at_once(workload: Workload, entries: int, parts: int) -> int:
    """Documents whose gradients of so many entries fit into one of the parts of what may be formed."""
    fitting = workload.formed_bytes // (parts * workload.bytes_per_entry * entries)
    return max(1, min(workload.documents, fitting))


def make_route(
    choice: Choice, module: TrackedModule, factors: list[LowRankGradient], workload: Workload, dtype, device
) -> Factors | Formed | Rebuilt:
    """The route, with the queries' gradients laid out as it needs them."""
    elements = workload.formed_bytes // workload.bytes_per_entry
    if choice.route == "factors":
        return Factors(module, factors, dtype, device)
    if choice.route == "formed":
        return Formed(module, factors, elements, dtype, device)
    return Rebuilt(module, factors, elements, dtype, device)


class Formed:
    """Keeps the dense gradients of all queries; its scores are one product with the documents' gradients."""

    def __init__(
        self, module: TrackedModule, factors: list[LowRankGradient], elements: int, dtype: torch.dtype, device
    ) -> None:
        self.module, self.elements = module, elements
        self.dense_QP = torch.empty(len(factors), module.out_features * module.in_dim, dtype=dtype, device=device)
        for row_P, factor in zip(self.dense_QP, factors, strict=True):
            _dense(factor, row_P.view(module.out_features, module.in_dim))

    def score(self, activation_BTI: Tensor, gradient_BTO: Tensor) -> tuple[Tensor, Tensor]:
        """Scores B×Q, and the squared norm of each document's gradient."""
        scores, squares = [], []
        for gradient_DOI in document_gradients(self.module, activation_BTI, gradient_BTO, self.elements):
            gradient_DP = gradient_DOI.flatten(1)
            scores.append((self.dense_QP @ gradient_DP.T).T)  # the larger matrix first: twice as fast for few documents
            squares.append(squared_norms(gradient_DP))
        return torch.cat(scores), torch.cat(squares)


class Rebuilt:
    """Keeps the queries' factors; their dense gradients are made anew for each chunk of documents, some at a time."""

    def __init__(
        self, module: TrackedModule, factors: list[LowRankGradient], elements: int, dtype: torch.dtype, device
    ) -> None:
        self.module, self.elements = module, elements
        self.factors = [_placed(factor, dtype, device) for factor in factors]

    def score(self, activation_BTI: Tensor, gradient_BTO: Tensor) -> tuple[Tensor, Tensor]:
        """Scores B×Q, and the squared norm of each document's gradient."""
        scores, squares = [], []
        elements = self.elements // PARTS["rebuilt"]
        for gradient_DOI in document_gradients(self.module, activation_BTI, gradient_BTO, elements):
            gradient_DP = gradient_DOI.flatten(1)
            scores.append(torch.cat([(dense_qP @ gradient_DP.T).T for dense_qP in self._dense(gradient_DP)], 1))
            squares.append(squared_norms(gradient_DP))
        return torch.cat(scores), torch.cat(squares)

    def _dense(self, like_DP: Tensor) -> Iterator[Tensor]:
        outputs, inputs = self.module.out_features, self.module.in_dim
        at_once = max(1, min(len(self.factors), self.elements // PARTS["rebuilt"] // (outputs * inputs)))
        scratch_qOI = like_DP.new_empty(at_once, outputs, inputs)
        for start in range(0, len(self.factors), at_once):
            some = self.factors[start : start + at_once]
            for row_OI, factor in zip(scratch_qOI, some, strict=False):
                _dense(factor, row_OI)
            yield scratch_qOI[: len(some)].flatten(1)


class Factors:
    """Projects tokens onto the directions of all queries; no gradient is formed."""

    def __init__(self, module: TrackedModule, factors: list[LowRankGradient], dtype: torch.dtype, device) -> None:
        self.module, self.ranks = module, [factor.rank for factor in factors]
        # Queries side by side as columns: one product projects a token onto the directions of all of them.
        self.left_OK = torch.cat([factor.left_OR for factor in factors], 1).to(device, dtype)
        self.right_IK = torch.cat([factor.right_IR for factor in factors], 1).to(device, dtype)
        query_K = torch.repeat_interleave(torch.arange(len(factors)), torch.tensor(self.ranks))
        self.query_K = query_K.to(device)

    def score(self, activation_BTI: Tensor, gradient_BTO: Tensor) -> tuple[Tensor, Tensor]:
        """Scores B×Q, and the squared norm of each document's gradient."""
        columns_at_once = max(1, ELEMENTS_AT_ONCE // activation_BTI.shape[:2].numel())
        dtype = sum_dtype(activation_BTI.dtype)
        scores_BQ = activation_BTI.new_zeros(len(activation_BTI), len(self.ranks), dtype=dtype)
        for first in range(0, len(self.query_K), columns_at_once):
            last = min(first + columns_at_once, len(self.query_K))
            projected_BTk = activation_BTI @ self.right_IK[: self.module.in_features, first:last]
            if self.module.has_bias:
                projected_BTk += self.right_IK[-1, first:last]
            projected_BTk *= gradient_BTO @ self.left_OK[:, first:last]
            products_Bk = projected_BTk.sum(1, dtype=scores_BQ.dtype)
            scores_BQ.index_add_(1, self.query_K[first:last], products_Bk)
        return scores_BQ, gradient_squares(self.module, activation_BTI, gradient_BTO)


def _placed(factor: LowRankGradient, dtype: torch.dtype, device) -> LowRankGradient:
    return LowRankGradient(factor.left_OR.to(device, dtype), factor.right_IR.to(device, dtype))


def _dense(factor: LowRankGradient, out_OI: Tensor) -> None:
    placed = _placed(factor, out_OI.dtype, out_OI.device)
    torch.mm(placed.left_OR, placed.right_IR.T, out=out_OI)
