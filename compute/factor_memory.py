"""How much memory factors take, and what is held of them at once where that is bounded.

A pass over the sample needs the factors of every module that it fits, so modules are fitted in groups, each by a pass
of its own. Query gradients need one module's factors at a time: where all of them do not fit, those of one module are
read for several queries together. I inputs (with the bias column), O outputs of a module.
"""

from __future__ import annotations

from collections.abc import Callable
from collections.abc import Sequence as SequenceOf
from dataclasses import dataclass

from compute.errors import BadInput
from compute.tracked_modules import TrackedModule

MEASURED_AT_ONCE = 32  # queries that share the pass over a sample by which their ranks are measured
FLOAT = 4  # bytes of an entry; those of a float64 model, `double`, take twice as much


def side_bytes(module: TrackedModule, blocks: int = 1, *, double: bool = False) -> int:
    """Of A and S, or of their eigenvectors: I² + O² entries, of which diagonal blocks keep a part."""
    return (1 + double) * FLOAT * -(-(module.in_dim**2 + module.out_features**2) // blocks)


def entry_bytes(module: TrackedModule, *, double: bool = False) -> int:
    """Of Λ, or of a gradient: O·I entries."""
    return (1 + double) * FLOAT * module.in_dim * module.out_features


def bytes_to_fit(stage: str, module: TrackedModule, blocks: int = 1, *, double: bool = False) -> int:
    """What fitting a module's part of a stage holds of it: A and S, or the eigenbasis, Λ and a batch's share of it."""
    fixed = {"covariances": 0, "eigenvalues": 2 * entry_bytes(module, double=double)}[stage]
    return side_bytes(module, blocks, double=double) + fixed


def module_groups(
    modules: SequenceOf[TrackedModule], bytes_of: Callable[[TrackedModule], int], memory_bytes: int | None
) -> list[tuple[TrackedModule, ...]]:
    """Modules in their order, in as few groups of neighbours as fit into the memory; one group where it is not bounded.

    Raises BadInput for a module that does not fit by itself.
    """
    if memory_bytes is None:
        return [tuple(modules)]
    groups: list[list[TrackedModule]] = []
    left = 0
    for module in modules:
        needed = bytes_of(module)
        if needed > memory_bytes:
            raise BadInput(
                f"curvature.memory_mib: {memory_bytes // 2**20}, and the factors of {module.name} alone take "
                f"{-(-needed // 2**20)} MiB; raise it to that at least, or cut them into more curvature.blocks"
            )
        if not groups or needed > left:
            groups.append([])
            left = memory_bytes
        groups[-1].append(module)
        left -= needed
    return [tuple(group) for group in groups]


@dataclass(frozen=True)
class Residence:
    """What preconditioning holds: the factors of all modules or of one, and the gradients of so many queries, of one
    at least, which may take more than the memory."""

    keeps_all: bool
    queries_at_once: int
    bytes_of_query: int


def residence(
    modules: SequenceOf[TrackedModule],
    blocks: int,
    memory_bytes: int,
    copies: int,
    *,
    keeps_all: bool = False,
    measured: int = 0,
    double: bool = False,
) -> Residence:
    """All factors where these and one query's gradients fit; else one module's, for as many queries as fit.

    `copies`: full gradients that a query takes at a time. `keeps_all` where a pass over documents needs them anyway.
    With `measured` gradients per query whose agreement is measured, cut and whole for one module at a time, queries
    share the pass by which it is: up to MEASURED_AT_ONCE also where all factors are held.
    """
    entries = [entry_bytes(module, double=double) for module in modules]
    gradients = copies * sum(entries) + 2 * measured * max(entries)
    factors = sum(side_bytes(module, blocks, double=double) for module in modules) + sum(entries)
    if keeps_all or factors + gradients <= memory_bytes:
        most = MEASURED_AT_ONCE if measured else 1
        return Residence(True, max(1, min(most, (memory_bytes - factors) // gradients)), gradients)
    return Residence(False, max(1, memory_bytes // gradients), gradients)


def gradient_copies(metrics: int, agreement: bool) -> int:
    """Full gradients of a query while it is cut to low ranks: itself, and where ranks are chosen together its
    components by each metric, which have up to twice its entries."""
    return 1 + 2 * metrics * agreement
