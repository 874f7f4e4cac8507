"""Labels sampled from the model, for the true Fisher: a pure function of (seed, document, position).

Martens 2014, *New insights and perspectives on the natural gradient method*, section 5: the Fisher takes labels from
the model's own predictive distribution; the empirical Fisher takes the data's. A label is drawn by inverting the
predictive distribution at a uniform number that a hash gives, so batch size, order and number of workers cannot
change it.
"""

from __future__ import annotations

import hashlib

import numpy as np
import torch
from torch import Tensor

ROWS_AT_ONCE = 1024  # bounds the float64 cumulative distribution to ROWS_AT_ONCE × vocabulary


def key_hash(key: str) -> int:
    """A 64-bit number for a document id, the same on every machine."""
    return int.from_bytes(hashlib.blake2b(key.encode(), digest_size=8).digest(), "little")


def uniforms(seed: int, key_hashes_N: np.ndarray, positions_N: np.ndarray) -> np.ndarray:
    """One float64 in [0, 1) per (seed, document, position)."""
    with np.errstate(over="ignore"):
        state_N = _mix(key_hashes_N.astype(np.uint64) ^ _mix(np.full(len(key_hashes_N), seed, np.uint64)))
        state_N = _mix(state_N + positions_N.astype(np.uint64) * np.uint64(0x9E3779B97F4A7C15))
    return (state_N >> np.uint64(11)).astype(np.float64) * 2.0**-53


def sample_labels(logits_NV: Tensor, key_hashes_N: np.ndarray, positions_N: np.ndarray, seed: int) -> Tensor:
    """One label per row, drawn from softmax(logits_NV); int64 of shape N on the logits' device."""
    uniform_N = torch.from_numpy(uniforms(seed, key_hashes_N, positions_N)).to(logits_NV.device)
    labels_N = [
        _invert(logits_rV, uniform_r)
        for logits_rV, uniform_r in zip(logits_NV.split(ROWS_AT_ONCE), uniform_N.split(ROWS_AT_ONCE), strict=True)
    ]
    return torch.cat(labels_N)


def _invert(logits_NV: Tensor, uniform_N: Tensor) -> Tensor:
    cumulative_NV = logits_NV.double().softmax(-1).cumsum(-1)
    threshold_N1 = (uniform_N * cumulative_NV[:, -1])[:, None]
    return torch.searchsorted(cumulative_NV, threshold_N1, right=True).clamp_(max=logits_NV.shape[-1] - 1).squeeze(1)


def _mix(value: np.ndarray) -> np.ndarray:
    """The finalizer of splitmix64 (Steele et al. 2014), which turns a counter into well-spread bits."""
    value = (value ^ (value >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    value = (value ^ (value >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return value ^ (value >> np.uint64(31))
