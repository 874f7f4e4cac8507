"""kronfluence 1.0.1's stages: full rank or a low one, its randomized decomposition, queries in batches of 8.

Its scoring computes the queries' gradients in the same call; only its pass over the documents is timed as `scores`.
"""

from __future__ import annotations

from functools import cache

import kronfluence.score.pairwise
import torch
from torch import Tensor

from benchmarks.engine.contender import Contender
from benchmarks.engine.kronfluence_analysis import Peer
from compute.tracked_modules import select_modules

QUERY_BATCH = 8


class Kronfluence(Contender):
    def __init__(self, *arguments) -> None:
        super().__init__(*arguments)
        untimed = kronfluence.score.pairwise.compute_dot_products_with_loader

        def dot_products(**named):
            with self.timed("scores"):
                return untimed(**named)

        kronfluence.score.pairwise.compute_dot_products_with_loader = dot_products
        self.peer = cache(self._peer)

    def factors(self, labels: str = "sampled") -> None:
        peer = self.peer("float32", labels)
        with self.timed("covariances"):
            peer.fit_covariances(self.documents, name=labels)
        with self.timed("decomposition"):
            peer.decompose(name=labels)
        with self.timed("eigenvalues"):
            peer.fit_eigenvalues(self.documents, name=labels)

    def scores(self, count: int, rank: int | None, precision: str = "float32", labels: str = "sampled") -> Tensor:
        with self.timed("query gradients and scores"):
            return self.peer(precision, labels).scores(
                self.queries[:count],
                self.documents,
                rank=rank,
                exact_svd=False,
                factors=labels,
                query_batch=min(QUERY_BATCH, count),
                dtype=getattr(torch, precision),
            )

    def _peer(self, precision: str, labels: str) -> Peer:
        model = self.model(precision)
        names = [module.name for module in select_modules(model, "mlp")]
        empirical = labels == "empirical"
        return Peer(model, names, self.directory, batch_size=self.setting.batch, empirical=empirical)
