"""The targets, next to what was measured."""

from __future__ import annotations

from dataclasses import dataclass

from benchmarks.engine.comparison import FACTORS, HALF
from benchmarks.engine.figures import FLOOR, YARDSTICK, Figures


@dataclass(frozen=True)
class Target:
    """One row: what was measured, in words, and whether it meets `must` and `stretch`; None if not measured."""

    what: str
    measured: str
    must: str
    met: bool | None
    stretch: str = "–"
    stretched: bool | None = None


def targets(figures: Figures) -> list[Target]:
    return [
        _scoring(figures),
        _with_norms(figures),
        _many_queries(figures),
        _factors(figures),
        _memory(figures),
        _agreement(figures),
        _half(figures),
        Target("a 1 B-parameter architecture on one GPU", "not part of this run", "≥ 40 % of the matrix rate", None),
    ]


def _scoring(figures: Figures) -> Target:
    queries = figures.comparison.setting.queries
    row, peer = f"headwater, {queries} queries", figures.faster_peer(f", {queries} queries")
    of_floor, of_pass = figures.ratio(row, FLOOR), figures.ratio(row, YARDSTICK)
    measured, met = _beside_peer(figures, row, peer, f"{of_floor:.2f} × floor, {of_pass:.2f} × a training pass")
    return Target(
        f"scoring {queries} queries (factors and queries ready)",
        measured + _floor_beside(figures, peer) + "; document norms included, since the pass always gives them",
        "≤ 1.25 × floor and ≤ 0.7 × the faster peer",
        met and of_floor <= 1.25 if met is not None else None,
        "≤ 0.75 × a training pass",
        of_pass <= 0.75,
    )


def _with_norms(figures: Figures) -> Target:
    row = f"headwater, {figures.comparison.setting.queries} queries"
    of_floor, of_pass = figures.ratio(row, FLOOR), figures.ratio(row, YARDSTICK)
    measured = f"{of_floor:.2f} × floor, {of_pass:.2f} × a training pass"
    stretch = "≤ 0.85 × a training pass"
    return Target("the same with document norms", measured, "≤ 1.4 × floor", of_floor <= 1.4, stretch, of_pass <= 0.85)


def _many_queries(figures: Figures) -> Target:
    queries = figures.comparison.setting.many_queries
    what, must, stretch = (
        f"scoring {queries} queries",
        "one pass, ≤ 1.4 × a training pass, memory within budget",
        "≤ 1.1 ×",
    )
    row = f"headwater, {queries} queries"
    if not figures.has(row):
        return Target(what, "not measured", must, None, stretch)
    of_pass = figures.ratio(row, YARDSTICK)
    return Target(
        what,
        f"{of_pass:.2f} × a training pass, one pass, {figures.mib(row):.0f} MiB",
        must,
        of_pass <= 1.4 and _is_within_budget(figures, row),
        stretch,
        of_pass <= 1.1,
    )


def _factors(figures: Figures) -> Target:
    row, peer = f"headwater{FACTORS}", figures.faster_peer(FACTORS)
    of_pass = figures.ratio(row, YARDSTICK)
    parts = ", ".join(f"{name} {seconds:.2f} s" for name, seconds in figures.parts(row).items())
    once = ", one run" if figures.is_once(row) else ""
    measured, met = _beside_peer(figures, row, peer, f"{of_pass:.2f} × a training pass ({parts}{once})")
    what, stretch = "factors (covariance, decomposition, Λ), sampled labels", "≤ 2.0 × a training pass"
    return Target(what, measured, "≤ 0.7 × the faster peer", met, stretch, of_pass <= 2.0)


def _beside_peer(figures: Figures, row: str, peer: str | None, measured: str) -> tuple[str, bool | None]:
    if peer is None:
        return f"{measured}; no peer ran", None
    ratio = figures.ratio(row, peer)
    theirs = figures.ratio(peer, YARDSTICK)
    return f"{measured}, {ratio:.2f} × the faster peer ({peer}: {theirs:.2f} × a training pass)", ratio <= 0.7


def _floor_beside(figures: Figures, peer: str | None) -> str:
    """What no method of this kind can be below, next to the peer."""
    return "" if peer is None else f"; the floor is {figures.ratio(FLOOR, peer):.2f} × that peer"


def _memory(figures: Figures) -> Target:
    setting = figures.comparison.setting
    rows = [f"headwater, {count} queries" for count in (setting.queries, setting.many_queries)]
    rows = [row for row in rows if figures.has(row)]
    measured = ", ".join(f"{row}: {figures.mib(row):.0f} MiB" for row in rows)
    return Target(
        "peak memory, beyond model and factors",
        f"{measured}; our batches hold {setting.our_documents} documents; the floor's activations are "
        f"{figures.mib(FLOOR):.0f} MiB in batches of {setting.batch}",
        f"bounded by a stated budget (here {setting.memory_mib} MiB for gradients of queries and documents; a batch's "
        f"activations come on top: the floor's, × {setting.our_documents}/{setting.batch} for our batches)",
        all(_is_within_budget(figures, row) for row in rows),
    )


def _is_within_budget(figures: Figures, row: str) -> bool:
    setting = figures.comparison.setting
    activations = figures.mib(FLOOR) * setting.our_documents / setting.batch
    return figures.mib(row) <= setting.memory_mib + activations


def _agreement(figures: Figures) -> Target:
    rank = figures.comparison.rank
    found = figures.comparison.agreements.get(f"headwater, rank {rank} and full rank")
    what = "agreement with full-rank scores"
    must, stretch = "≥ .99 Pearson and ≥ 45 of the top 50 for every query", "≥ .995"
    if found is None:
        return Target(what, "no rank that was tried meets it", must, False, stretch, False)
    measured = (
        f"rank {rank}: Pearson {found.pearson_mean:.4f} on average, {found.pearson_worst:.4f} for the worst query, "
        f"Spearman {found.spearman_mean:.4f} and {found.spearman_worst:.4f}, "
        f"at least {found.overlap_worst} of the top {found.listed}"
    )
    met, stretched = found.meets, found.pearson_worst >= 0.995
    return Target(what, measured, must, met, stretch, stretched)


def _half(figures: Figures) -> Target:
    row = f"headwater, {figures.comparison.setting.queries} queries in {HALF}"
    must, stretch = "≤ 0.55 ×, agreement ≥ .99", "≤ 0.4 ×"
    what = "our bfloat16 scoring against a float32 training pass"
    if not figures.has(row):
        return Target(what, "not measured", must, None, stretch)
    ratio = figures.ratio(row, YARDSTICK)
    found = figures.comparison.agreements[f"headwater, {HALF} and float32 at full rank"]
    measured = f"{ratio:.2f} ×, Pearson {found.pearson_worst:.4f} for the worst query"
    return Target(what, measured, must, ratio <= 0.55 and found.pearson_worst >= 0.99, stretch, ratio <= 0.4)
