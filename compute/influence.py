"""Influence: the scores of documents for all queries at once, in one pass over the documents.

Score of document d for query q: Σ_modules ⟨P_q, ∇L(d)⟩ with P_q the query's (preconditioned) gradient; positive means
that weighting the document up lowers the loss of the query's completion. How a module multiplies is told in
`compute/routes.py`; the document's gradient norm ‖∇L(d)‖ over the tracked modules falls out of the same products.
Methods of unit norm (`compute/methods.py`) are divided by a document's norm when all its modules are summed up.
D documents, B of them in a batch, T positions, I inputs, O outputs, Q queries (times methods).
"""

from __future__ import annotations

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
from compute.passes import OnBatch, accumulation_dtype, backward_passes
from compute.routes import FORMED_SHARE, PARTS, Choice, Workload, choose, make_route
from compute.tracked_modules import TrackedModule

MEMORY_BYTES = 2**31  # what the queries' dense gradients and the documents' may take together


@dataclass
class Scores:
    """Scores Q×D in the orders given, and per document its gradient norm and its summed loss in nats."""

    scores_QD: np.ndarray
    norms_D: np.ndarray
    loss_D: np.ndarray


class InfluencePass:
    """All queries' gradients, laid out once for as many shards as follow.

    `gradients` holds one dictionary of factors per query (and method). Routes are chosen for documents of
    `typical_tokens` in batches of `token_budget`; next to the model and the factors, `memory_bytes` bound what is kept.
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
        self.token_budget, self.methods, self.curvature = token_budget, tuple(methods), curvature
        self.dtype, self.device = accumulation_dtype(model), input_device(model)
        self.products = products or self.dtype
        documents = max(1, token_budget // typical_tokens)
        workload = Workload(typical_tokens, documents, memory_bytes, self.products.itemsize)
        factors = {module.name: [each[module.name] for each in gradients] for module in self.modules}
        ranks = {name: [factor.rank for factor in each] for name, each in factors.items()}
        self.choices = choose_routes(self.modules, ranks, workload)
        self.routes = {
            module.name: make_route(
                self.choices[module.name],
                module,
                factors[module.name],
                workload,
                self.products,
                module_device(model, module),
            )
            for module in self.modules
        }

    def route_names(self) -> dict[str, str]:
        """The route that each module takes, for the record of a run."""
        return {name: choice.route for name, choice in self.choices.items()}

    def score(self, documents: SequenceOf[Sequence], *, on_batch: OnBatch | None = None) -> Scores:
        """Scores of `documents`, whatever their order. Raises BadInput naming a document whose loss is not finite."""
        scores_QD = torch.zeros(self.queries, len(documents), dtype=self.dtype, device=self.device)
        metrics = {"plain"} | norm_metrics(self.methods)
        norms = DocumentNorms(metrics, len(documents), self.curvature, self.dtype, self.device)
        loss_D = torch.zeros(len(documents), dtype=torch.float64)

        def consume(batch: Batch, module: TrackedModule, activation_BTI: Tensor, gradient_BTO: Tensor) -> None:
            scores_BQ, plain_B = self.routes[module.name].score(
                activation_BTI.to(self.products), gradient_BTO.to(self.products)
            )
            squares = norms.of_module(module, activation_BTI, gradient_BTO, {"plain": plain_B.to(self.dtype)})
            scores_QB = scores_BQ.T.to(self.device, self.dtype)
            # In place and last: where memory runs out before, nothing has been added.
            scores_QD.index_add_(1, batch.places.to(self.device), scores_QB)
            norms.add(batch, squares)

        settings = {"token_budget": self.token_budget, "on_batch": on_batch}
        for batch, loss_B in backward_passes(self.model, self.modules, documents, consume, **settings):
            loss_D[batch.index_B] = loss_B
        self._divide(scores_QD, norms)
        return Scores(scores_QD.cpu().numpy(), norms.of("plain").cpu().numpy(), loss_D.numpy())

    def _divide(self, scores_QD: Tensor, norms: DocumentNorms) -> None:
        """The scores of methods of unit norm by the norms of the documents, in place."""
        for metric in norm_metrics(self.methods):
            divided = [norm_metric(method) == metric for method in self.methods]
            rows = torch.tensor(divided, device=self.device).nonzero()[:, 0]
            scores_QD[rows] = over(scores_QD[rows], norms.of(metric))


def choose_routes(
    modules: SequenceOf[TrackedModule], ranks: dict[str, list[int]], workload: Workload
) -> dict[str, Choice]:
    """The choice of each module by name, for queries of these ranks at it; `formed` as long as the memory lasts.

    Raises BadInput where the memory does not hold one document's gradient of a module that forms them.
    """
    dense_bytes = workload.memory_bytes - workload.formed_bytes
    choices = {}
    for module in modules:
        choice = choices[module.name] = choose(module, ranks[module.name], workload, dense_bytes)
        _refuse_too_little(module, choice, workload)
        if choice.route == "formed":
            entries = len(ranks[module.name]) * module.out_features * module.in_dim
            dense_bytes -= entries * workload.bytes_per_entry
    return choices


def _refuse_too_little(module: TrackedModule, choice: Choice, workload: Workload) -> None:
    gradient = module.out_features * module.in_dim * workload.bytes_per_entry
    least = FORMED_SHARE * PARTS[choice.route] * gradient
    if least > workload.memory_bytes:
        raise BadInput(
            f"options.memory_mib: {workload.memory_bytes // 2**20} is too little for one document's gradient of "
            f"{module.name}, of {-(-gradient // 2**20)} MiB; give {-(-least // 2**20)} at least"
        )


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
