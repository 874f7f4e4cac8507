"""Matrices in diagonal blocks: what lies outside of the blocks is taken as zero, and neither kept nor computed.

Grosse et al. 2023 (appendix A) and Ruis et al. 2024 cut A and S of large layers so; the latter into 2 blocks at 7 B
parameters and 4 at 35 B. With B blocks a covariance takes 1/B of the memory and of the operations, its decomposition
1/B² of the operations. A matrix in one block is a plain tensor. A bias column belongs to the last block.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence as SequenceOf
from dataclasses import dataclass

import torch
from torch import Tensor

from compute.errors import BadInput
from compute.tracked_modules import TrackedModule


@dataclass(frozen=True)
class BlockDiagonal:
    """Two blocks or more, from the upper left on. Products are with tensors, on either side, along one dimension."""

    blocks: tuple[Tensor, ...]

    def __len__(self) -> int:
        return sum(map(len, self.blocks))

    @property
    def T(self) -> BlockDiagonal:  # noqa: N802 (as a tensor's)
        return BlockDiagonal(tuple(block.T for block in self.blocks))

    def __matmul__(self, other: Tensor) -> Tensor:
        parts = other.split([block.shape[1] for block in self.blocks], -2)
        return torch.cat([block @ part for block, part in zip(self.blocks, parts, strict=True)], -2)

    def __rmatmul__(self, other: Tensor) -> Tensor:
        parts = other.split([block.shape[0] for block in self.blocks], -1)
        return torch.cat([part @ block for block, part in zip(self.blocks, parts, strict=True)], -1)

    def to(self, device: torch.device, dtype: torch.dtype) -> BlockDiagonal:
        return BlockDiagonal(tuple(block.to(device, dtype) for block in self.blocks))


Matrix = Tensor | BlockDiagonal


def blocks_of(matrix: Matrix) -> tuple[Tensor, ...]:
    return matrix.blocks if isinstance(matrix, BlockDiagonal) else (matrix,)


def of_blocks(blocks: SequenceOf[Tensor]) -> Matrix:
    return blocks[0] if len(blocks) == 1 else BlockDiagonal(tuple(blocks))


def cut(matrix_NN: Tensor, blocks: int) -> Matrix:
    """The diagonal blocks of a whole matrix, without what lies outside of them."""
    side = len(matrix_NN) // blocks  # of a bias column, one row more than can be divided: the last block has it
    ends = [*(side * number for number in range(blocks)), len(matrix_NN)]
    return of_blocks([matrix_NN[start:end, start:end] for start, end in itertools.pairwise(ends)])


def without_last_row(matrix: Matrix) -> tuple[Matrix, Tensor]:
    """The matrix without its last row, and that row, whole."""
    *others, last = blocks_of(matrix)
    row_N = torch.cat([*(block.new_zeros(block.shape[1]) for block in others), last[-1]]) if others else last[-1]
    return of_blocks([*others, last[:-1]]), row_N


def check_blocks(modules: SequenceOf[TrackedModule], blocks: int, field: str = "curvature.blocks") -> None:
    """Raises BadInput, which names the field, for a module whose inputs or outputs cannot be cut into so many blocks of
    one size."""
    for module in modules:
        for what, features in (("inputs", module.in_features), ("outputs", module.out_features)):
            if features % blocks:
                how = "fewer than that" if features < blocks else "which that does not divide"
                raise BadInput(
                    f"{field}: {blocks}, and {module.name} has {features} {what}, {how}; give a number that "
                    "divides inputs and outputs of every tracked module, or leave the module out of curvature.modules"
                )
