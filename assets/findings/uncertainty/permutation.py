"""Tests that permute what the queries are called: exact where there are few ways to do it."""

from __future__ import annotations

import itertools
import math
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Literal

import numpy as np

Alternative = Literal["two-sided", "greater", "less"]


def welch_p(first: np.ndarray, second: np.ndarray, resamples: int, generator: np.random.Generator) -> float:
    values = np.concatenate([first, second])
    values = values - values.mean()
    scale = float(np.abs(values).max())
    if scale <= 1e-12 * np.abs(first).max():
        return 1.0
    labels = np.repeat([0, 1], [len(first), len(second)])
    ways, exact = arrangements(labels, resamples, generator)
    statistics = _welch(values / scale, np.vstack([labels, ways]))
    return p_value(statistics[0], statistics[1:], "two-sided", exact)


def _welch(values: np.ndarray, codes_RQ: np.ndarray) -> np.ndarray:
    """Welch's t for each row of labels; infinite where both groups have no spread and differ."""
    difference, variance = np.zeros(len(codes_RQ)), np.zeros(len(codes_RQ))
    for code, sign in ((0, 1.0), (1, -1.0)):
        members = (codes_RQ == code).astype(np.float64)
        count = members[0].sum()
        mean = members @ values / count
        difference += sign * mean
        variance += np.maximum(members @ values**2 - count * mean**2, 0) / (count - 1) / count
    difference[np.abs(difference) < 1e-12] = 0.0
    spread = np.where(variance > 1e-14, np.sqrt(variance), 0.0)
    endless = np.where(difference == 0, 0.0, np.copysign(np.inf, difference))
    return np.divide(difference, spread, out=endless, where=spread > 0)


def p_value(
    observed: float, statistics: np.ndarray, alternative: Alternative, exact: bool, scale: float = 1.0
) -> float:
    """How many of the statistics are as extreme as the observed one, which stands among them if they are exact. What
    differs by less than rounding, next to the `scale` of what was summed, is equal."""
    sides = {"two-sided": np.abs, "greater": np.positive, "less": np.negative}
    observed, statistics = sides[alternative](observed), sides[alternative](statistics)
    finite = np.abs(statistics[np.isfinite(statistics)])
    rounding = max(1e-9 * float(finite.max(initial=0.0)), 1e-12 * scale)
    reached = int((statistics >= observed - rounding).sum())
    return reached / len(statistics) if exact else (reached + 1) / (len(statistics) + 1)


def smallest_p(sizes: Sequence[int], resamples: int, *, alike: bool = True) -> float:
    """The smallest p-value that permuting queries among groups of these sizes can give: three against three have 20
    ways, and, two-sided, another of them is always as extreme. `alike`: groups of one size can swap their names without
    a change of what is compared."""
    ways = _ways(sizes)
    if ways > resamples:
        return 1 / (resamples + 1)
    swaps = math.prod(math.factorial(count) for count in Counter(sizes).values()) if alike else 1
    return min(1.0, swaps / ways)


def arrangements(codes: np.ndarray, resamples: int, generator: np.random.Generator) -> tuple[np.ndarray, bool]:
    """All ways to give the queries these labels, and True; or as many random ones as asked, and False."""
    sizes = np.bincount(codes).tolist()
    if _ways(sizes) <= resamples:
        return np.array(list(_labelled(len(codes), sizes))), True
    return generator.permuted(np.tile(codes, (resamples, 1)), axis=1), False


def _ways(sizes: Sequence[int]) -> int:
    return math.factorial(sum(sizes)) // math.prod(math.factorial(size) for size in sizes)


def _labelled(count: int, sizes: list[int]) -> Iterator[np.ndarray]:
    """Every way to label `count` queries, `sizes[0]` of them 0, and so on."""

    def place(free: tuple[int, ...], code: int, labels: np.ndarray) -> Iterator[np.ndarray]:
        if code == len(sizes):
            yield labels.copy()
            return
        for chosen in itertools.combinations(free, sizes[code]):
            labels[list(chosen)] = code
            yield from place(tuple(each for each in free if each not in chosen), code + 1, labels)

    return place(tuple(range(count)), 0, np.zeros(count, np.int64))
