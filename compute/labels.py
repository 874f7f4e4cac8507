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

BLOCK = 64  # tokens of the vocabulary whose probabilities are summed before they are looked at one by one


def key_hash(key: str) -> int:
    """A 64-bit number for a document id, the same on every machine."""
    return int.from_bytes(hashlib.blake2b(key.encode(), digest_size=8).digest(), "little")


def uniforms(seed: int, key_hashes_N: np.ndarray, positions_N: np.ndarray) -> np.ndarray:
    """One float64 in [0, 1) per (seed, document, position)."""
    with np.errstate(over="ignore"):
        state_N = _mix(key_hashes_N.astype(np.uint64) ^ _mix(np.full(len(key_hashes_N), seed, np.uint64)))
        state_N = _mix(state_N + positions_N.astype(np.uint64) * np.uint64(0x9E3779B97F4A7C15))
    return (state_N >> np.uint64(11)).astype(np.float64) * 2.0**-53


def sample_labels(p_NV: Tensor, key_hashes_N: np.ndarray, positions_N: np.ndarray, seed: int) -> Tensor:
    """One label per row, drawn from the probabilities p_NV; int64 of shape N on their device."""
    uniform_N = torch.from_numpy(uniforms(seed, key_hashes_N, positions_N)).to(p_NV.device)
    mass_NK = _block_mass(p_NV).cumsum_(-1)
    threshold_N1 = (uniform_N * mass_NK[:, -1])[:, None]
    block_N1 = torch.searchsorted(mass_NK, threshold_N1, right=True).clamp_(max=mass_NK.shape[1] - 1)
    before_N1 = mass_NK.gather(1, (block_N1 - 1).clamp(min=0)).masked_fill(block_N1 == 0, 0)
    token_Nb = block_N1 * BLOCK + torch.arange(BLOCK, device=p_NV.device)
    last = p_NV.shape[1] - 1
    inside_Nb = p_NV.gather(1, token_Nb.clamp(max=last)).double().masked_fill_(token_Nb > last, 0).cumsum_(-1)
    place_N1 = torch.searchsorted(inside_Nb.add_(before_N1), threshold_N1, right=True).clamp_(max=BLOCK - 1)
    return (block_N1 * BLOCK + place_N1).clamp_(max=last).squeeze(1)


def _block_mass(p_NV: Tensor) -> Tensor:
    """Probability of each block of the vocabulary, in float64: the cumulative sum is then taken over these alone."""
    whole = p_NV.shape[1] // BLOCK
    blocks_NK = p_NV[:, : whole * BLOCK].unflatten(1, (whole, BLOCK)).sum(-1, dtype=torch.float64)
    return torch.cat([blocks_NK, p_NV[:, whole * BLOCK :].sum(-1, keepdim=True, dtype=torch.float64)], 1)


def _mix(value: np.ndarray) -> np.ndarray:
    """The finalizer of splitmix64 (Steele et al. 2014), which turns a counter into well-spread bits."""
    value = (value ^ (value >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    value = (value ^ (value >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return value ^ (value >> np.uint64(31))
