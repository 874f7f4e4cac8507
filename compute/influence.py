"""Influence: the scores of documents for all queries at once, in one pass over the documents.

Score of document d for query q: Σ_modules ⟨P_q, ∇L(d)⟩ with P_q the query's (preconditioned) gradient; positive means
that weighting the document up lowers the loss of the query's completion. How a module multiplies is told in
`compute/routes.py`; the document's gradient norm ‖∇L(d)‖ over the tracked modules falls out of the same products.
Methods of unit norm (`compute/methods.py`) are divided by a document's norm when all its modules are summed up.
D documents, B of them in a batch, T positions, I inputs, O outputs, Q queries (times methods).
"""

from __future__ import annotations

from collections.abc import Iterable
from collections.abc import Sequence as SequenceOf
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from compute.batches import Batch, Sequence
from compute.curvature import Curvature, over
from compute.devices import input_device, module_device
from compute.document_norms import DocumentNorms
from compute.errors import BadInput
from compute.low_rank import LowRankGradient
from compute.methods import norm_metric, norm_metrics
from compute.passes import OnBatch, TokenBudget, accumulation_dtype, backward_passes, sums_in_float32
from compute.query_products import Products, Scratch, Sums, query_products
from compute.routes import Workload, choose_routes
from compute.tracked_modules import TrackedModule

MEMORY_BYTES = 2**31  # what the gradients of queries and of documents may take together


@dataclass
class Scores:
    """Scores Q×D in the orders given, and per document its gradient norm and its summed loss in nats."""

    scores_QD: np.ndarray
    norms_D: np.ndarray
    loss_D: np.ndarray


class InfluencePass:
    """All queries' gradients, laid out once for as many shards as follow.

    `gradients` holds one dictionary of factors per query (and method). Routes are chosen for documents of
    `typical_tokens` in batches of `token_budget`; `memory_bytes` bound what is kept of gradients next to the model.
    Raises BadInput where they do not fit there. A budget that was halved for one shard is so for those that follow.
    `methods` has the method of each gradient, where some are of unit norm; trackstar needs the `curvature` as well.
    `products` is the precision in which gradients are multiplied (left out: that of the sums, which are float32 at
    least); torch.bfloat16 halves their memory and, where the device has instructions for it, their time.
    """

    def __init__(
        self,
        model: nn.Module,
        modules: SequenceOf[TrackedModule],
        gradients: SequenceOf[dict[str, LowRankGradient]],
        *,
        typical_tokens: int = 256,
        token_budget: int = 8192,
        memory_bytes: int = MEMORY_BYTES,
        methods: SequenceOf[str] = (),
        curvature: Curvature | None = None,
        products: torch.dtype | None = None,
    ) -> None:
        self.model, self.modules, self.queries = model, tuple(modules), len(gradients)
        if methods and len(methods) != len(gradients):
            raise ValueError(f"{len(methods)} methods for {len(gradients)} gradients")
        self.budget, self.methods, self.curvature = TokenBudget(token_budget), tuple(methods), curvature
        self.dtype, self.device = accumulation_dtype(model), input_device(model)
        self.products = products or self.dtype
        documents = max(1, token_budget // typical_tokens)
        workload = Workload(typical_tokens, documents, memory_bytes, self.products.itemsize)
        factors = {module.name: [each[module.name] for each in gradients] for module in self.modules}
        ranks = {name: [factor.rank for factor in each] for name, each in factors.items()}
        self.chosen = choose_routes(self.modules, ranks, workload)
        scratch, sums = Scratch(self.products), Sums(self.device, self.dtype)
        self.routes = {}
        for module in self.modules:
            where = module_device(model, module), sums
            try:
                route = query_products(self.chosen, module, factors[module.name], workload, scratch, *where)
            except torch.OutOfMemoryError as error:
                raise BadInput(
                    f"options.memory_mib: {self.queries} gradients of queries and methods do not fit, at "
                    f"{module.name}, in the memory that is left next to the model; give less, so that fewer are kept"
                ) from error
            self.routes[module.name] = route

    def score(self, documents: SequenceOf[Sequence], *, on_batch: OnBatch | None = None) -> Scores:
        """Scores of `documents`, whatever their order.

        Raises BadInput naming a document whose loss is not finite, or a module whose product does not fit in memory.
        """
        scores_QD = torch.zeros(self.queries, len(documents), dtype=self.dtype, device=self.device)
        metrics = {"plain"} | norm_metrics(self.methods)
        norms = DocumentNorms(metrics, len(documents), self.curvature, self.dtype, self.device)
        loss_D = torch.zeros(len(documents), dtype=torch.float64)

        def add(ready: Iterable[Products]) -> None:
            for each in ready:
                scores_QD.index_add_(1, each.places_D, each.scores_QD)

        def consume(batch: Batch, module: TrackedModule, activation_BTI: Tensor, gradient_BTO: Tensor) -> None:
            route = self.routes[module.name]
            add(route.make_room(len(batch.index_B)))  # of batches before: whole in itself, whatever follows
            squares = norms.of_module(module, activation_BTI, gradient_BTO, known={"plain"})
            places_B = batch.places.to(self.device)
            plain_B, ready = route.score(places_B, activation_BTI.to(self.products), gradient_BTO.to(self.products))
            # Last, and it takes no memory: where that has run out before, nothing has been added.
            add(ready)
            norms.add(places_B, squares | {"plain": plain_B})

        for route in self.routes.values():
            route.forget()
        settings = {"token_budget": self.budget, "on_batch": on_batch}
        with sums_in_float32():
            for batch, loss_B in backward_passes(self.model, self.modules, documents, consume, **settings):
                loss_D[batch.index_B] = loss_B
            for name in self.routes:
                add(self._finish(name))
        self._divide(scores_QD, norms)
        return Scores(scores_QD.cpu().numpy(), norms.of("plain").cpu().numpy(), loss_D.numpy())

    def _finish(self, name: str) -> list[Products]:
        """What waits at a module. Raises BadInput where the product of one document does not fit in memory."""
        try:
            return self.routes[name].finish()
        except torch.OutOfMemoryError as error:
            raise BadInput(
                f"options.memory_mib: the product of one document's gradient of {name} with those of all queries does "
                "not fit in the memory that is left; give less, so that fewer gradients are kept"
            ) from error

    def _divide(self, scores_QD: Tensor, norms: DocumentNorms) -> None:
        """The scores of methods of unit norm by the norms of the documents, in place."""
        norms_D = {metric: norms.of(metric) for metric in norm_metrics(self.methods)}
        for query, method in enumerate(self.methods):  # one by one: a copy of them all may not fit in memory
            if metric := norm_metric(method):
                scores_QD[query] = over(scores_QD[query], norms_D[metric])


def score_documents(
    model: nn.Module,
    modules: SequenceOf[TrackedModule],
    gradients: SequenceOf[dict[str, LowRankGradient]],
    documents: SequenceOf[Sequence],
    *,
    on_batch: OnBatch | None = None,
    **settings,
) -> Scores:
    """One list of documents scored for all queries; `InfluencePass` is the same for many lists."""
    return InfluencePass(model, modules, gradients, **settings).score(documents, on_batch=on_batch)
