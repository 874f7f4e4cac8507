"""Padded batches, as plain passes and the peers that take such batches are given them."""

from __future__ import annotations

import torch
from torch import Tensor

from compute.batches import Sequence

IGNORED = -100


def pad(sequences: list[Sequence]) -> dict[str, Tensor]:
    """A batch padded on the right; `labels` has IGNORED where a position carries no loss."""
    shape = (len(sequences), max(len(sequence.token_ids) for sequence in sequences))
    batch = {
        "input_ids": torch.zeros(shape, dtype=torch.long),
        "attention_mask": torch.zeros(shape, dtype=torch.long),
        "labels": torch.full(shape, IGNORED),
    }
    for row, sequence in enumerate(sequences):
        tokens, length = torch.tensor(sequence.token_ids), len(sequence.token_ids)
        batch["input_ids"][row, :length] = tokens
        batch["attention_mask"][row, :length] = 1
        batch["labels"][row, sequence.loss_start : length] = tokens[sequence.loss_start :]
    return batch
