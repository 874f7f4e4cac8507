"""Batches of token sequences: bucketed by length, padded on the right, bounded by a budget of padded tokens.

B sequences, T padded positions. Padding never reaches a result: its attention mask is 0, it carries no loss, and
causal attention hides what stands to the right of a token.
"""

from __future__ import annotations

from collections.abc import Sequence as SequenceOf
from dataclasses import dataclass, replace
from functools import cached_property

import torch
from torch import Tensor

from compute.errors import BadInput


@dataclass(frozen=True)
class Sequence:
    """Tokens with a loss: a document (all but the first token are targets) or a query (its completion's tokens are).

    `key` identifies it in messages and seeds its sampled labels; `loss_start` is the position of the first target.
    """

    key: str
    token_ids: SequenceOf[int]
    loss_start: int = 1

    def __len__(self) -> int:
        return len(self.token_ids)


@dataclass(frozen=True)
class Batch:
    """`index_B` gives each row's place in the list that was batched; `target_BT` marks tokens that carry loss.

    What a routed expert sees of a batch (`experts.ExpertBatch`) has fewer columns: `position_BT` says where in its
    document each token stands.
    """

    index_B: list[int]
    keys_B: list[str]
    token_ids_BT: Tensor
    attention_BT: Tensor
    target_BT: Tensor
    position_BT: Tensor | None = None

    def to(self, device: torch.device) -> Batch:
        """The same on another device, where a part of the model computes."""
        if device == self.token_ids_BT.device:
            return self
        tensors = ("token_ids_BT", "attention_BT", "target_BT", "position_BT")
        return replace(self, **{name: each.to(device) for name in tensors if (each := getattr(self, name)) is not None})

    @cached_property
    def places(self) -> Tensor:
        """`index_B` on the batch's device."""
        return torch.tensor(self.index_B, device=self.token_ids_BT.device)

    @cached_property
    def real_places(self) -> Tensor:
        """Where tokens stand that are no padding, among B×T."""
        # Places, and not a mask: how many it marks the host would have to ask of the device whenever it is used.
        return self.attention_BT.flatten().nonzero()[:, 0]

    @property
    def tokens(self) -> int:
        """Number of tokens without padding."""
        return int(self.attention_BT.sum())


def check_sequences(sequences: SequenceOf[Sequence], token_budget: int) -> None:
    """Raises BadInput for a sequence without a target or longer than the budget."""
    for sequence in sequences:
        _check(sequence, token_budget)


def plan_batches(lengths: SequenceOf[int], token_budget: int) -> list[list[int]]:
    """Indices grouped so that rows × longest row ≤ token_budget; longest first, so that memory peaks at once."""
    order = sorted(range(len(lengths)), key=lambda index: (-lengths[index], index))
    batches: list[list[int]] = []
    for index in order:
        rows_allowed = token_budget // max(1, lengths[batches[-1][0]]) if batches else 0
        if batches and len(batches[-1]) < rows_allowed:
            batches[-1].append(index)
        else:
            batches.append([index])
    return batches


def _check(sequence: Sequence, token_budget: int) -> None:
    if len(sequence) - max(1, sequence.loss_start) < 1:
        raise BadInput(f"{sequence.key}: has {len(sequence)} tokens and none of them carries loss; leave it out")
    if len(sequence) > token_budget:
        raise BadInput(
            f"{sequence.key}: has {len(sequence)} tokens, more than options.token_budget ({token_budget}); raise it"
        )


def pad(sequences: SequenceOf[Sequence], index_B: list[int], device) -> Batch:
    """The sequences of these indices as one batch."""
    rows = [sequences[index] for index in index_B]
    shape = (len(rows), max(map(len, rows)))
    token_ids_BT = torch.zeros(shape, dtype=torch.long)
    attention_BT = torch.zeros(shape, dtype=torch.long)
    target_BT = torch.zeros(shape, dtype=torch.bool)
    for row, sequence in enumerate(rows):
        token_ids_BT[row, : len(sequence)] = torch.as_tensor(sequence.token_ids, dtype=torch.long)
        attention_BT[row, : len(sequence)] = 1
        target_BT[row, max(1, sequence.loss_start) : len(sequence)] = True
    tensors = (tensor.to(device) for tensor in (token_ids_BT, attention_BT, target_BT))
    return Batch(index_B, [sequence.key for sequence in rows], *tensors)
