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
