"""Sign codes: of each dimension of a vector one bit, and inner products with them by counting bits.

A vector x is kept as its signs s and the factor ‖x‖² / ‖x‖₁: factor · ⟨s, q⟩ estimates ⟨x, q⟩, exactly for q = x, and
without bias over random rotations of both (Gao & Long 2024, *RaBitQ*). One bit of a dimension tells about 2/π of what
the whole number does, so that of a given number of bytes many dimensions of one bit are the best use. A query is
rounded to 16 levels, whose four bits are compared with the codes. D documents, K dimensions, W words of 64 bits.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import torch
from torch import Tensor

PLANES = 4
STEP = 0.3352
"""Between two of 16 levels, in standard deviations: the best for a normal distribution (Max 1960)."""
ROWS = 64  # codes at a time, which stay in the cache from one plane of the query to the next


def encode(vectors_DK: Tensor) -> tuple[np.ndarray, np.ndarray]:
    """The codes, uint8 of shape D×(K/8), and the factors, float32 of shape D; K is a multiple of 64."""
    squares_D, sums_D = vectors_DK.square().sum(1), vectors_DK.abs().sum(1)
    factors_D = torch.where(sums_D > 0, squares_D / sums_D, 0.0)
    codes = np.packbits((vectors_DK > 0).cpu().numpy(), axis=1)
    return codes, factors_D.to(torch.float32).cpu().numpy()


class CodeQuery:
    """One vector, to be multiplied with many codes."""

    def __init__(self, vector_K: Tensor) -> None:
        values_K = vector_K.double().cpu().numpy()
        half = 2**PLANES / 2
        self.step = STEP * float(np.sqrt(np.mean(values_K**2)))
        levels_K = (
            np.floor(values_K / self.step).clip(-half, half - 1) + half if self.step else np.full_like(values_K, half)
        )
        levels_K = levels_K.astype(np.uint8)
        self.planes = [np.packbits((levels_K >> plane) & 1).view(np.uint64) for plane in range(PLANES)]
        self.dimensions = len(levels_K)

    def estimates(self, codes: np.ndarray, factors_D: np.ndarray) -> np.ndarray:
        """Of ⟨x, vector⟩ for each x whose code is a row of `codes` (uint8, D×K/8); float32 of shape D."""
        words_DW = np.ascontiguousarray(codes).view(np.uint64)
        blocks = range(0, len(words_DW), ROWS)
        with ThreadPoolExecutor(max(1, torch.get_num_threads())) as pool:
            sums = list(pool.map(lambda start: self._signed_sums(words_DW[start : start + ROWS]), blocks))
        signed_D = np.concatenate(sums) if sums else np.empty(0)
        return (self.step * factors_D * signed_D).astype(np.float32)

    def _signed_sums(self, words_DW: np.ndarray) -> np.ndarray:
        """Σ s_k (u_k − 7.5): a level less its middle is Σ_p 2^(p−1) t_pk of its bits as signs, and a sum of products of
        signs is the number of bits that are alike less those that differ."""
        return sum(
            2.0 ** (place - 1) * (self.dimensions - 2 * _ones(words_DW ^ plane_W))
            for place, plane_W in enumerate(self.planes)
        )


def _ones(words_DW: np.ndarray) -> np.ndarray:
    narrow = np.uint16 if 64 * words_DW.shape[1] < 2**16 else np.uint32  # a quarter faster than in 64 bits
    return np.bitwise_count(words_DW).sum(1, dtype=narrow).astype(np.int64)
