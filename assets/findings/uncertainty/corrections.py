"""Corrections of p-values for many comparisons."""

from __future__ import annotations

import numpy as np


def holm(p_values: np.ndarray) -> np.ndarray:
    """P-values corrected so that any false finding among them is unlikely (Holm 1979); nan stays nan, not counted."""
    p = np.asarray(p_values, np.float64)
    corrected = np.full(p.shape, np.nan)
    known = np.flatnonzero(~np.isnan(p))
    rising = known[np.argsort(p.flat[known], kind="stable")]
    corrected.flat[rising] = np.minimum(np.maximum.accumulate(p.flat[rising] * np.arange(len(rising), 0, -1)), 1.0)
    return corrected


def holm_at_best(p_values: np.ndarray, smallest: np.ndarray) -> np.ndarray:
    """What each corrected p-value would be were it the smallest that its test can give, and the others as they are."""
    p, best = np.asarray(p_values, np.float64), np.full(len(p_values), np.nan)
    for at in np.flatnonzero(~np.isnan(p)):
        best[at] = holm(np.where(np.arange(len(p)) == at, smallest, p))[at]
    return best
