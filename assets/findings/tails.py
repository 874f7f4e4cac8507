"""How fast influence falls off with rank: the power law by both of the paper's definitions (method, analysis 3).

A list of the highest scores is all that is read. If it is not the whole corpus (the 500 highest of millions), that has
these consequences. Given the lowest score of the list, the scores above it are independent draws of what the
distribution is above that floor, so a fit whose x_min stands in the list is as good as one of the whole corpus, and no
number of documents enters it. But x_min cannot be lower than the list's floor: where the fit chooses the floor
(`at_floor`), the tail may go on below it, the exponent stands for the listed ranks alone, and a longer list would
tell it more precisely. And what is not a power law further down is not seen: far up in its tail an exponential
distribution is straight on logarithmic axes too, with a large exponent, so a good fit of a short list says that the top
falls as a power law, and not that the distribution is one.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

LEAST = 10
"""Positive scores without which nothing is fitted."""
SMALLEST_TAIL = 0.2
CANDIDATES = 64
REPETITIONS = 100
CELLS = 4_000_000
"""Numbers held at once."""

NAN = math.nan


@dataclass(frozen=True)
class RankSlope:
    """log score ≈ intercept + slope · log rank (natural logarithms; ranks from 1); nan: too few points."""

    slope: float
    intercept: float
    r_squared: float
    """Share of the variance of log scores that the line explains; 1 where all scores are equal."""
    points: int
    """Positive scores that were used."""
    standard_error: float
    """Of the slope, if the scores are draws of a Pareto tail; least squares' own error, which takes points as
    independent, would be far too small."""


@dataclass(frozen=True)
class TailFit:
    """p(score) ∝ score^−α for scores of at least `x_min`; nan: too few scores, or all equal."""

    alpha: float
    standard_error: float
    """Of α, x_min taken as known: (α − 1)/√n (eq. 3.2)."""
    refit_error: float
    """Of α with the choice of x_min: its standard deviation over the synthetic lists; nan without repetitions."""
    x_min: float
    """In the unit of the scores."""
    tail: int
    """Scores of at least x_min."""
    points: int
    """Positive scores of the list."""
    distance: float
    """Kolmogorov–Smirnov distance of the tail from the fit."""
    p_value: float
    """Share of synthetic lists that lie as far from their fit or farther; at most 0.1: no power law (section 4.1)."""
    share: float
    """Of all documents, those in the tail; nan where `total` is not given."""
    at_floor: bool
    """x_min is the lowest score of a list that is not the whole corpus: the tail may go on below it."""


def log_rank_slope(scores: np.ndarray, *, depth: int = 500, least: int = LEAST) -> RankSlope:
    """Slope of log score against log rank over the `depth` highest scores (Ruis et al. 2024).

    `scores`: the highest scores of one query, in any unit and order, at least `depth` of them unless the corpus is
    smaller; those that are not positive are left out; nan where fewer than `least` are left. Least squares, each
    document one point, so that the lower half of the list weighs most. A tail with exponent α has the slope −1/(α − 1).
    The standard error is |slope| · √(2/points) (Kratz and Resnick 1996, The QQ-estimator and heavy tails).
    """
    logs = np.log(_positive(scores)[:depth])
    points = len(logs)
    if points < max(least, 2):
        return RankSlope(NAN, NAN, NAN, points, NAN)
    ranks = np.log(np.arange(1, points + 1))
    across, up = ranks - ranks.mean(), logs - logs.mean()
    slope = float(across @ up / (across @ across))
    variance = float(up @ up)
    if logs[0] == logs[-1]:
        return RankSlope(0.0, float(logs[0]), 1.0, points, 0.0)
    r_squared = slope**2 * float(across @ across) / variance
    intercept = float(logs.mean() - slope * ranks.mean())
    return RankSlope(slope, intercept, r_squared, points, abs(slope) * math.sqrt(2 / points))


def tail_exponent(
    scores: np.ndarray,
    *,
    total: int | None = None,
    repetitions: int = REPETITIONS,
    seed: int = 0,
    candidates: int = CANDIDATES,
    smallest_tail: float = SMALLEST_TAIL,
    least: int = LEAST,
) -> TailFit:
    """Exponent of the scores' tail by maximum likelihood (Clauset, Shalizi and Newman 2009, Power-law distributions in
    empirical data, arXiv 0706.1062), as Grosse et al. 2023 fit it.

    `scores`: the highest scores of one query, in any order; those that are not positive are left out. `total`: how many
    documents the list is from, if it is not all of them (module docstring). Given x_min, α = 1 + (n − 1)/Σ ln(x/x_min)
    over the n scores of at least x_min: eq. 3.1 without its bias of small samples, since x_min itself adds nothing to
    the sum. Of the `candidates` for x_min the one is taken whose tail has the smallest Kolmogorov–Smirnov distance from
    its fit (section 3.3); they are scores of the list whose ranks lie evenly on a logarithmic axis from `least` to the
    end, an approximation that costs little (as many candidates as scores: all of them are tried).

    `p_value` is of the semi-parametric bootstrap of section 4.1 with one added to both counts: lists as long as this
    one, whose scores are from the fit as often as they were, else from the scores below x_min, each fitted in the same
    way, choice of x_min included. It comes in steps of 1/(repetitions + 1), and 100 tell 0.1 to ± 0.03; with none it is
    nan.
    """
    values = _positive(scores)
    points = len(values)
    if points < max(least, 3) or values[0] == values[-1]:
        return TailFit(NAN, NAN, NAN, NAN, 0, points, NAN, NAN, NAN, False)
    logs = np.log(values)
    sizes = _tail_sizes(points, candidates, max(least, 3, math.ceil(smallest_tail * points)))
    falloff, distance, start, tail = (each[0].item() for each in _fit(logs[None], sizes))
    if not math.isfinite(distance):
        return TailFit(NAN, NAN, NAN, NAN, 0, points, NAN, NAN, NAN, False)
    p_value = refit_error = NAN
    if repetitions:
        refits, distances = _synthetic_fits(logs, tail, falloff, sizes, repetitions, seed)
        p_value = (1 + int((distances >= distance).sum())) / (1 + repetitions)
        refit_error = float(refits.std(ddof=1)) if repetitions > 1 else NAN
    return TailFit(
        alpha=1 + falloff,
        standard_error=falloff / math.sqrt(tail),
        refit_error=refit_error,
        x_min=math.exp(start),
        tail=tail,
        points=points,
        distance=distance,
        p_value=p_value,
        share=NAN if total is None else tail / total,
        at_floor=total is not None and total > np.asarray(scores).size and tail == np.asarray(scores).size,
    )


def _positive(scores: np.ndarray) -> np.ndarray:
    """Finite scores above zero, falling."""
    values = np.asarray(scores, np.float64).ravel()
    return -np.sort(-values[np.isfinite(values) & (values > 0)])


def _tail_sizes(points: int, candidates: int, least: int) -> np.ndarray:
    least = min(least, points)
    if candidates >= points - least + 1:
        return np.arange(least, points + 1)
    return np.unique(np.geomspace(least, points, candidates).round().astype(np.int64))


def _fit(logs_RN: np.ndarray, sizes: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """For each row of falling log scores: α − 1, the smallest distance, log x_min and the number of scores in the tail.

    Scores that are equal to x_min are all in the tail. The distance is infinite where no tail has any spread.
    """
    rows, points = logs_RN.shape
    sums, ends = np.cumsum(logs_RN, axis=1), _ends_of_ties(logs_RN)
    every = np.arange(rows)
    best = (*(np.full(rows, value) for value in (NAN, np.inf, NAN)), np.zeros(rows, np.int64))
    ranks = np.arange(1, points + 1)
    for size in sizes:
        start, tail = logs_RN[:, size - 1], ends[:, size - 1] + 1
        spread = sums[every, tail - 1] - tail * start
        held = spread > 1e-12 * tail
        falloff = (tail - 1) / np.where(held, spread, 1.0)
        width = int(tail.max())
        model = np.exp((start[:, None] - logs_RN[:, :width]) * falloff[:, None])  # share above each score
        above = ranks[:width] / tail[:, None] - model
        if int(tail.min()) < width:
            above = np.where(ranks[:width] <= tail[:, None], above, above[:, :1])
        distance = np.where(held, np.maximum(above.max(axis=1), 1 / tail - above.min(axis=1)), np.inf)
        closer = distance < best[1]
        for kept, found in zip(best, (falloff, distance, start, tail), strict=True):
            kept[closer] = found[closer]
    return best


def _ends_of_ties(logs_RN: np.ndarray) -> np.ndarray:
    """For each score, the place of the last one that is equal to it."""
    points = logs_RN.shape[1]
    last = np.full(logs_RN.shape, points - 1)
    last[:, :-1] = np.where(logs_RN[:, :-1] != logs_RN[:, 1:], np.arange(points - 1), points - 1)
    return np.minimum.accumulate(last[:, ::-1], axis=1)[:, ::-1]


def _synthetic_fits(
    logs: np.ndarray, tail: int, falloff: float, sizes: np.ndarray, repetitions: int, seed: int
) -> tuple[np.ndarray, np.ndarray]:
    """α and distances of lists drawn from the fit above x_min, and from the scores themselves below it."""
    generator = np.random.Generator(np.random.PCG64(seed))
    points, start = len(logs), logs[tail - 1]
    alphas, distances = [], []
    rows = max(1, CELLS // points)
    for first in range(0, repetitions, rows):
        shape = (min(rows, repetitions - first), points)
        drawn = start + generator.standard_exponential(shape) / falloff
        if tail < points:
            below = generator.random(shape) >= tail / points
            drawn = np.where(below, logs[generator.integers(tail, points, shape)], drawn)
        found = _fit(-np.sort(-drawn, axis=1), sizes)
        alphas.append(1 + found[0])
        distances.append(found[1])
    return np.concatenate(alphas), np.concatenate(distances)
