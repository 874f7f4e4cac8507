"""Per-query values compared between groups of queries: means with intervals, contrasts with tests.

The contrasts are those that the paper draws: factual with reasoning queries, each kind with its controls, and right
with wrong answers within a kind. Kinds and their controls may be tested against chance as well. A group with fewer than
two queries has a mean and no interval.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Mapping

import numpy as np
import polars as pl

from assets.findings.evidence import Evidence
from assets.findings.uncertainty.bootstrap import ANY, Comparison, Interval
from assets.findings.uncertainty.chance import ChanceTest, mean_against_chance, share_against_chance
from assets.findings.uncertainty.values import (
    difference_of_means,
    difference_of_shares,
    mean_interval,
    share_interval,
)
from assets.specs.findings import FindingsSpec


class Comparing:
    """Of the study's `queries` (`groups.grouped`), under the study's settings of resampling."""

    def __init__(self, queries: pl.DataFrame, settings: FindingsSpec) -> None:
        self.settings = settings
        self.members = {name: set(ids) for name, ids in _labels(queries).items()}
        self.kinds = set(queries["group"])
        self.pairs = _contrasts(queries)

    def found(
        self,
        method: str,
        statistic: str,
        values: pl.DataFrame,
        *,
        chance: float | Mapping[str, float] = math.nan,
        tested: bool = True,
        against_chance: bool = False,
        bounds: tuple[float, float] = ANY,
    ) -> list[Evidence]:
        """Of a frame with `query_id` and `value` (NaN or null: left out): the mean of every group, and the contrasts.

        `chance` is what would be expected without any influence: one number, or one for each query. What is not
        `tested` has no contrasts, and what is not to be tested `against_chance` no p-value of its means: each is one
        more test that the others are corrected for. `bounds` are those of the values.
        """
        options = {"resamples": self.settings.resamples, "seed": self.settings.seed, "bounds": bounds}
        return self._compared(
            method,
            statistic,
            values,
            chance,
            mean_against_chance if against_chance else None,
            lambda one: mean_interval(one, **options),
            (lambda one, other: difference_of_means(one, other, **options)) if tested else None,
        )

    def shares(
        self,
        method: str,
        statistic: str,
        values: pl.DataFrame,
        *,
        chance: float | Mapping[str, float] = math.nan,
        tested: bool = True,
        against_chance: bool = False,
    ) -> list[Evidence]:
        """The same where the values are 0 and 1, and the mean is a share of queries."""
        options = {"resamples": self.settings.resamples, "seed": self.settings.seed}
        return self._compared(
            method,
            statistic,
            values,
            chance,
            share_against_chance if against_chance else None,
            share_interval,
            (lambda one, other: difference_of_shares(one, other, **options)) if tested else None,
        )

    def _compared(
        self,
        method: str,
        statistic: str,
        values: pl.DataFrame,
        chance: float | Mapping[str, float],
        against_chance: Callable[[np.ndarray, np.ndarray], ChanceTest] | None,
        interval: Callable[[np.ndarray], Interval],
        compare: Callable[[np.ndarray, np.ndarray], Comparison] | None,
    ) -> list[Evidence]:
        known = {key: value for key, value in values.iter_rows() if value is not None and not math.isnan(value)}
        ids = {name: sorted(keys & known.keys()) for name, keys in self.members.items()}
        of = {name: np.array([known[key] for key in each], np.float64) for name, each in ids.items() if each}
        named = {"method": method, "statistic": statistic}
        chances = {group: _chances(chance, ids[group]) for group in of}
        tests = {
            group: against_chance(of[group], chances[group])._asdict()
            for group in self.kinds & of.keys()
            if against_chance
        }
        means = [
            Evidence.of_group(
                group, interval(each), len(each), float(chances[group].mean()), **named, **tests.get(group, {})
            )
            for group, each in of.items()
        ]
        return means + [
            Evidence.of_contrast(one, other, compare(of[one], of[other]), len(of[one]) + len(of[other]), **named)
            for one, other in self.pairs
            if compare and one in of and other in of
        ]


def _chances(chance: float | Mapping[str, float], ids: list[str]) -> np.ndarray:
    return np.array([chance[key] if isinstance(chance, Mapping) else chance for key in ids], np.float64)


def _labels(queries: pl.DataFrame) -> dict[str, list[str]]:
    """Queries of each group; of a group with right and wrong answers those parts; of one with several tasks each."""
    labels: dict[str, list[str]] = {}
    for (group,), part in queries.sort("group", "query_id").group_by("group", maintain_order=True):
        labels[group] = part["query_id"].to_list()
        if part["is_control"].any():
            continue
        for word, right in (("right", True), ("wrong", False)):
            answered = part.filter(pl.col("is_right") == right)
            if 0 < len(answered) < len(part):
                labels[f"{group}, {word}"] = answered["query_id"].to_list()
        tasks = part.partition_by("task", as_dict=True)
        if len(tasks) > 1:
            labels |= {f"{group}: {task}": each["query_id"].to_list() for (task,), each in sorted(tasks.items())}
    return labels


def _contrasts(queries: pl.DataFrame) -> list[tuple[str, str]]:
    labels = _labels(queries)
    kinds = queries.filter(~pl.col("is_control"))["group"].unique().sort().to_list()
    controls = [(kind, f"{kind} control") for kind in kinds if f"{kind} control" in labels]
    among_controls = list(itertools.combinations([control for _, control in controls], 2))
    right = [(f"{kind}, right", f"{kind}, wrong") for kind in kinds if f"{kind}, right" in labels]
    answered = [each for each in itertools.combinations([f"{kind}, right" for kind in kinds], 2)]
    both = [each for each in answered if all(name in labels for name in each)]
    right = [each for each in right if each[1] in labels]
    return [*itertools.combinations(kinds, 2), *controls, *among_controls, *right, *both]
