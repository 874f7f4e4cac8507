"""Products of documents' gradients with those of all queries, by the routes that `compute/routes.py` tells of.

Where gradients are formed, weights and biases are kept apart: matrices without the bias column are formed half as fast
again. B documents of a batch, D gathered for a product, T positions, I inputs (here without the bias column), O
outputs, P entries of a weight, Q queries (times methods, q at once), R rank, K the ranks of all queries together.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Iterator
from collections.abc import Sequence as SequenceOf
from dataclasses import dataclass

import torch
from torch import Tensor

from compute.low_rank import LowRankGradient
from compute.module_gradients import gradient_squares, squared_norms, sum_dtype
from compute.passes import Parts
from compute.routes import Routes, Workload, documents_at_once, rebuilt_at_once
from compute.tracked_modules import TrackedModule

ELEMENTS_AT_ONCE = 2**24  # of projections, 64 MiB in float32


@dataclass(frozen=True)
class Sums:
    """Where the products of all modules are added up."""

    device: torch.device
    dtype: torch.dtype


@dataclass(frozen=True)
class Products:
    """Scores Q×D at one module of the documents that stand at `places_D`, ready to be added up: that takes no memory,
    so that what has been handed over is never lost or added twice."""

    places_D: Tensor
    scores_QD: Tensor

    @classmethod
    def to(cls, sums: Sums, places_D: Tensor, scores_DQ: Tensor) -> Products:
        return cls(places_D.to(sums.device, copy=True), scores_DQ.T.to(sums.device, sums.dtype))


class QueryProducts(ABC):
    """One module's route. In a pass over documents `make_room` and `score` come for each batch, `finish` at the end.
    Whoever calls adds up the products that these hand over. Where they run out of memory, nothing has changed."""

    waiting = 0  # documents whose products are still to come

    def make_room(self, documents: int) -> list[Products]:
        """Of documents that wait, where so many do not fit beside them; then none waits."""
        return []

    @abstractmethod
    def score(self, places_B: Tensor, activation_BTI: Tensor, gradient_BTO: Tensor) -> tuple[Tensor, list[Products]]:
        """The squared norm of each document's gradient, where and as sums are, and the products that are ready."""

    def finish(self) -> list[Products]:
        """Of documents that wait; then none does. Memory runs out only where one document's does not fit."""
        return []

    def forget(self) -> None:
        """Lets documents go that wait since a pass that ended with an error."""
        self.waiting = 0


def query_products(
    routes: Routes,
    module: TrackedModule,
    factors: list[LowRankGradient],
    workload: Workload,
    scratch: Scratch,
    device,
    sums: Sums,
) -> QueryProducts:
    """The route of a module, with the queries' gradients laid out as it needs them, in the dtype of `scratch`, which
    all modules of a pass have together."""
    route, dtype = routes.choices[module.name].route, scratch.dtype
    if route == "factors":
        # Those of the chunk before are still there while the next are read, and put side by side.
        elements = None if routes.kept else routes.passing_bytes // workload.bytes_per_entry // 3
        return FactorSide(module, factors, dtype, device, sums, elements)
    entries = module.out_features * module.in_dim
    if route == "formed":
        queries = Kept(module, factors, dtype, device)
    else:
        kept = [_placed(each, dtype, device) for each in factors] if routes.kept else factors
        at_once = rebuilt_at_once(
            routes.passing_bytes, workload.bytes_per_entry, module, len(factors), kept=routes.kept
        )
        queries = Rebuilt(module, kept, dtype, device, *at_once, scratch)
    if routes.gathered:
        return GatheredGradients(queries, routes.gathered, scratch, sums)
    rows = documents_at_once(workload, routes.passing_bytes, entries, route)
    return FormedGradients(queries, rows, scratch, sums)


class FactorSide(QueryProducts):
    """Projects tokens onto the directions of all queries; no gradient is formed.

    Directions are kept, or so many `elements` of them read at a time.
    """

    def __init__(
        self,
        module: TrackedModule,
        factors: list[LowRankGradient],
        dtype: torch.dtype,
        device,
        sums: Sums,
        elements: int | None = None,
    ) -> None:
        self.module, self.queries, self.sums, self.dtype, self.device = module, len(factors), sums, dtype, device
        self.factors = factors if elements else []
        self.laid_out = None if elements else self._side_by_side(factors)
        self.most_columns = (elements or 0) // (module.out_features + module.in_dim)
        self._host_K = torch.repeat_interleave(torch.arange(len(factors)), torch.tensor([f.rank for f in factors]))
        self.query_K = self._host_K.to(device)

    def score(self, places_B: Tensor, activation_BTI: Tensor, gradient_BTO: Tensor) -> tuple[Tensor, list[Products]]:
        columns_at_once = ELEMENTS_AT_ONCE // activation_BTI.shape[:2].numel()
        if not self.laid_out:
            columns_at_once = min(columns_at_once, self.most_columns)
        dtype = sum_dtype(activation_BTI.dtype)
        scores_BQ = activation_BTI.new_zeros(len(activation_BTI), self.queries, dtype=dtype)
        for left_Ok, right_Ik, query_k in self._columns(max(1, columns_at_once)):
            projected_BTk = activation_BTI @ right_Ik[: self.module.in_features]
            if self.module.has_bias:
                projected_BTk += right_Ik[-1]
            projected_BTk *= gradient_BTO @ left_Ok
            products_Bk = projected_BTk.sum(1, dtype=scores_BQ.dtype)
            scores_BQ.index_add_(1, query_k, products_Bk)
        squares_B = gradient_squares(self.module, activation_BTI, gradient_BTO)
        return squares_B.to(self.sums.device, self.sums.dtype), [Products.to(self.sums, places_B, scores_BQ)]

    def _columns(self, at_once: int) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
        """The queries' directions, so many of them at a time, and whose they are."""
        for start in range(0, len(self.query_K), at_once):
            k = slice(start, start + at_once)
            left_OK, right_IK = (each[:, k] for each in self.laid_out) if self.laid_out else self._read(k)
            yield left_OK, right_IK, self.query_K[k]

    def _read(self, k: slice) -> tuple[Tensor, Tensor]:
        """These columns of factors that are not laid out."""
        of_k, count_k = self._host_K[k].unique_consecutive(return_counts=True)
        skipped = k.start - int(torch.searchsorted(self._host_K, of_k[0]))
        some = []
        for query, count in zip(of_k.tolist(), count_k.tolist(), strict=True):
            part = slice(skipped, skipped + count)
            some.append(LowRankGradient(self.factors[query].left_OR[:, part], self.factors[query].right_IR[:, part]))
            skipped = 0
        return self._side_by_side(some)

    def _side_by_side(self, factors: list[LowRankGradient]) -> tuple[Tensor, Tensor]:
        """As columns: one product projects a token onto the directions of all of them."""
        placed = [_placed(each, self.dtype, self.device) for each in factors]
        return torch.cat([each.left_OR for each in placed], 1), torch.cat([each.right_IR for each in placed], 1)


class Scratch:
    """Memory for what is made anew for every product. Modules come one after the other, so one piece serves them all:
    asking for tens of MiB anew each time takes a CPU about as long as the product."""

    def __init__(self, dtype: torch.dtype) -> None:
        self.dtype = dtype
        self._pieces: dict[tuple[str, torch.device], Tensor] = {}

    def space(self, name: str, shape: SequenceOf[int], device: torch.device) -> Tensor:
        """Of this shape, with whatever stands there; until the next call with the same name."""
        elements, key = math.prod(shape), (name, torch.device(device))
        if key not in self._pieces or len(self._pieces[key]) < elements:
            self._pieces.pop(key, None)  # let go before more is asked for
            self._pieces[key] = torch.empty(elements, dtype=self.dtype, device=device)
        return self._pieces[key][:elements].view(*shape)


class DenseQueries(ABC):
    """The queries' dense gradients: weights q×P and biases q×O of some of them at a time."""

    def __init__(self, module: TrackedModule, dtype: torch.dtype, device) -> None:
        self.module, self.dtype, self.device = module, dtype, device

    def products(self, weight_DP: Tensor, bias_DO: Tensor | None) -> Tensor:
        """Scores D×Q."""
        return torch.cat(list(self._parts(weight_DP, bias_DO))).T

    @abstractmethod
    def _parts(self, weight_DP: Tensor, bias_DO: Tensor | None) -> Iterator[Tensor]:
        """Scores q×D of all queries in turn, in the dtype of sums."""

    def _product(self, weight_qP: Tensor, weight_DP: Tensor) -> Tensor:
        # The larger matrix first: twice as fast for few documents.
        return (weight_qP @ weight_DP.T).to(sum_dtype(self.dtype))

    def _build(self, placed: SequenceOf[LowRankGradient], rows: slice, out_qoI: Tensor) -> None:
        """Writes rows of these queries' weights, one query after the other since their ranks differ."""
        for factor, out_oI in zip(placed, out_qoI, strict=True):
            torch.mm(factor.left_OR[rows], factor.right_IR[: self.module.in_features].T, out=out_oI)

    def _biases(self, placed: SequenceOf[LowRankGradient]) -> Tensor | None:
        if not self.module.has_bias:
            return None
        return torch.stack([factor.left_OR @ factor.right_IR[-1] for factor in placed])


class Kept(DenseQueries):
    """Made once and kept."""

    def __init__(self, module: TrackedModule, factors: SequenceOf[LowRankGradient], dtype: torch.dtype, device) -> None:
        super().__init__(module, dtype, device)
        weight_QOI = torch.empty(len(factors), module.out_features, module.in_features, dtype=dtype, device=device)
        biases = []
        for number, factor in enumerate(factors):
            placed = [_placed(factor, dtype, device)]
            self._build(placed, slice(None), weight_QOI[number : number + 1])
            biases.append(self._biases(placed))
        self.bias_QO = torch.cat(biases) if module.has_bias else None
        self.weight_QP = weight_QOI.flatten(1)

    def _parts(self, weight_DP: Tensor, bias_DO: Tensor | None) -> Iterator[Tensor]:
        scores_QD = self._product(self.weight_QP, weight_DP)
        yield scores_QD if bias_DO is None else scores_QD + self.bias_QO @ bias_DO.T


class Rebuilt(DenseQueries):
    """`rows` of the dense gradients of `at_once` queries are made of their factors for each product."""

    def __init__(
        self,
        module: TrackedModule,
        factors: SequenceOf[LowRankGradient],
        dtype: torch.dtype,
        device,
        at_once: int,
        rows: int,
        scratch: Scratch,
    ) -> None:
        super().__init__(module, dtype, device)
        self.factors, self.at_once, self.rows, self.scratch = factors, at_once, rows, scratch

    def _parts(self, weight_DP: Tensor, bias_DO: Tensor | None) -> Iterator[Tensor]:
        for start in range(0, len(self.factors), self.at_once):
            some = self.factors[start : start + self.at_once]
            yield self._of_some([_placed(each, self.dtype, self.device) for each in some], weight_DP, bias_DO)

    def _of_some(self, placed: list[LowRankGradient], weight_DP: Tensor, bias_DO: Tensor | None) -> Tensor:
        """Scores q×D: rows after rows of all these queries, so that a document's are read once for all of them."""
        inputs = self.module.in_features
        scores_qD = weight_DP.new_zeros(len(placed), len(weight_DP), dtype=sum_dtype(self.dtype))
        for start in range(0, self.module.out_features, self.rows):
            rows = slice(start, min(start + self.rows, self.module.out_features))
            weight_qoI = self.scratch.space("queries", (len(placed), rows.stop - start, inputs), self.device)
            self._build(placed, rows, weight_qoI)
            entries = slice(start * inputs, rows.stop * inputs)
            scores_qD += self._product(weight_qoI.flatten(1), weight_DP[:, entries])
        return scores_qD if bias_DO is None else scores_qD + self._biases(placed) @ bias_DO.T


class FormedGradients(QueryProducts):
    """Forms the gradients of a batch's documents, up to `rows` of them for a product."""

    def __init__(self, queries: DenseQueries, rows: int, scratch: Scratch, sums: Sums) -> None:
        self.module, self.queries, self.rows, self.scratch, self.sums = queries.module, queries, rows, scratch, sums

    def score(self, places_B: Tensor, activation_BTI: Tensor, gradient_BTO: Tensor) -> tuple[Tensor, list[Products]]:
        squares, ready = [], []
        weight_DOI, bias_DO = self._space(min(self.rows, len(places_B)))
        for start in range(0, len(places_B), self.rows):
            d = slice(start, start + self.rows)
            here = slice(0, len(places_B[d]))
            squares.append(self._form(activation_BTI[d], gradient_BTO[d], weight_DOI[here], _rows(bias_DO, here)))
            scores_DQ = self.queries.products(weight_DOI[here].flatten(1), _rows(bias_DO, here))
            ready.append(Products.to(self.sums, places_B[d], scores_DQ))
        return torch.cat(squares), ready

    def _form(self, activation_DTI: Tensor, gradient_DTO: Tensor, weight_DOI: Tensor, bias_DO: Tensor | None) -> Tensor:
        """Writes the gradients, and gives their squared norms."""
        torch.bmm(gradient_DTO.transpose(1, 2), activation_DTI, out=weight_DOI)
        squares_D = squared_norms(weight_DOI)
        if bias_DO is not None:
            torch.sum(gradient_DTO, 1, out=bias_DO)
            squares_D += squared_norms(bias_DO)
        return squares_D.to(self.sums.device, self.sums.dtype)

    def _space(self, rows: int) -> tuple[Tensor, Tensor | None]:
        """For gradients of so many documents."""
        shape = (rows, self.module.out_features, self.module.in_features)
        return self.scratch.space("documents", shape, self.queries.device), self._bias_space(rows)

    def _bias_space(self, rows: int) -> Tensor | None:
        if not self.module.has_bias:
            return None
        return torch.empty(rows, self.module.out_features, dtype=self.queries.dtype, device=self.queries.device)


class GatheredGradients(FormedGradients):
    """Gathers them over several batches, until a next batch would make more than `rows`."""

    def __init__(self, queries: DenseQueries, rows: int, scratch: Scratch, sums: Sums) -> None:
        super().__init__(queries, rows, scratch, sums)
        kind = {"dtype": queries.dtype, "device": queries.device}
        self._weight_DOI = torch.empty(rows, self.module.out_features, self.module.in_features, **kind)
        self._bias_DO = self._bias_space(rows)
        self._places_D = torch.empty(rows, dtype=torch.int64, device=sums.device)
        self._parts = Parts(rows, f"documents that are gathered for {self.module.name}")

    def make_room(self, documents: int) -> list[Products]:
        return self.finish() if self.waiting + documents > self.rows else []

    def score(self, places_B: Tensor, activation_BTI: Tensor, gradient_BTO: Tensor) -> tuple[Tensor, list[Products]]:
        if len(places_B) > self.rows:
            return super().score(places_B, activation_BTI, gradient_BTO)
        d = slice(self.waiting, self.waiting + len(places_B))
        squares_B = self._form(activation_BTI, gradient_BTO, self._weight_DOI[d], _rows(self._bias_DO, d))
        self._places_D[d] = places_B
        self.waiting = d.stop
        return squares_B, []

    def finish(self) -> list[Products]:
        ready = list(self._parts.of(self._product, self.waiting, self.queries.device))
        self.forget()  # last: where memory has run out before, they wait on
        return ready

    def _product(self, d: slice) -> Products:
        scores_DQ = self.queries.products(self._weight_DOI[d].flatten(1), _rows(self._bias_DO, d))
        return Products.to(self.sums, self._places_D[d], scores_DQ)

    def _space(self, rows: int) -> tuple[Tensor, Tensor | None]:
        """That of what is gathered: a batch of more than `rows` comes when nothing waits."""
        return self._weight_DOI[:rows], _rows(self._bias_DO, slice(0, rows))


def _rows(of_D: Tensor | None, d: slice) -> Tensor | None:
    return None if of_D is None else of_D[d]


def _placed(factor: LowRankGradient, dtype: torch.dtype, device) -> LowRankGradient:
    return LowRankGradient(factor.left_OR.to(device, dtype), factor.right_IR.to(device, dtype))
