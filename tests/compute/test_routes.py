"""What is laid out for the routes stays within the memory that they were chosen for, by the tensors that there are."""

from __future__ import annotations

import pytest
import torch

from compute.low_rank import LowRankGradient
from compute.query_products import FactorSide, GatheredGradients, Kept, Rebuilt, Scratch, Sums, query_products
from compute.routes import Workload, choose_routes
from compute.tracked_modules import TrackedModule

LAYERS = [
    TrackedModule(f"{layer}.{side}", *sides, False)
    for layer in range(4)
    for side, sides in (("up", (32, 128)), ("down", (128, 32)))
]
KIB = 2**10
TOKENS = 4


class Largest(Scratch):
    """Notes the most that all its pieces take."""

    most = 0

    def space(self, name, shape, device):
        found = super().space(name, shape, device)
        self.most = max(self.most, sum(each.nbytes for each in self._pieces.values()))
        return found


def laid_out(queries: int, rank: int, documents: int, tokens: int, memory_bytes: int):
    """The routes of a pass over one batch of documents, and the bytes that it held for them at most."""
    workload = Workload(tokens, documents, memory_bytes)
    chosen = choose_routes(LAYERS, {each.name: [rank] * queries for each in LAYERS}, workload)
    scratch, sums, held, read = Largest(torch.float32), Sums(torch.device("cpu"), torch.float32), 0, 0
    for module in LAYERS:
        factors = [
            LowRankGradient(torch.ones(module.out_features, rank), torch.ones(module.in_dim, rank))
            for _ in range(queries)
        ]
        route = query_products(chosen, module, factors, workload, scratch, torch.device("cpu"), sums)
        sides = (documents, TOKENS, module.in_features), (documents, TOKENS, module.out_features)
        route.score(torch.arange(documents), *map(torch.ones, sides))
        if isinstance(route, FactorSide):
            held += sum(each.nbytes for each in route.laid_out or ())
            read = max(
                read, 0 if route.laid_out else 3 * 4 * route.most_columns * (module.out_features + module.in_dim)
            )
            continue
        if isinstance(route.queries, Kept):
            held += route.queries.weight_QP.nbytes
        elif isinstance(route.queries, Rebuilt) and chosen.kept:
            held += sum(each.bytes for each in factors)
        if isinstance(route, GatheredGradients):
            held += route._weight_DOI.nbytes
    return chosen, held + scratch.most + read


@pytest.mark.parametrize(
    ("queries", "rank", "documents", "tokens", "memory_kib", "routes", "gathered", "kept"),
    [
        (70, 2, 64, 256, 4096, {"formed", "rebuilt"}, False, True),
        (20, 2, 64, 256, 4096, {"formed"}, False, True),
        (500, 2, 64, 256, 4096, {"rebuilt"}, False, False),
        (150, 2, 64, 256, 4096, {"rebuilt"}, False, True),
        (100, 8, 64, 256, 4096, {"rebuilt"}, False, False),
        (100, 2, 8, 256, 8192, {"rebuilt"}, True, True),
        (100, 16, 32, 2, 4096, {"formed", "factors"}, False, False),
    ],
)
def test_what_is_laid_out_is_within_the_memory(queries, rank, documents, tokens, memory_kib, routes, gathered, kept):
    chosen, held = laid_out(queries, rank, documents, tokens, memory_kib * KIB)
    assert set(chosen.names().values()) == routes
    assert (bool(chosen.gathered), chosen.kept) == (gathered, kept)
    assert memory_kib * KIB / 4 <= held <= memory_kib * KIB
