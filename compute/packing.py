"""Short documents packed into training rows, each still as it would be alone.

Documents are laid next to each other in rows of at most `context` tokens (first fit), which leaves hardly any padding.
Each sees only itself: attention is confined to the document, positions start at 0 in each, and the first token of each
carries no loss. So a model meets a document in training exactly as it does when documents are scored, one per row.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

IGNORED = -100  # the label that carries no loss
OPEN_ROWS = 64  # rows looked at for room


class PackedRows(torch.utils.data.Dataset):
    """All rows of a run in the order in which they are trained on: per row the documents that lie in it."""

    def __init__(self, documents: list[Sequence[int]], *, context: int, epochs: int, seed: int) -> None:
        self.documents = documents
        generator = torch.Generator().manual_seed(seed)
        self.rows: list[list[int]] = []
        for _ in range(epochs):
            order = torch.randperm(len(documents), generator=generator).tolist()
            packed = _first_fit(order, [len(document) for document in documents], context)
            shuffled = torch.randperm(len(packed), generator=generator).tolist()
            self.rows.extend(packed[index] for index in shuffled)

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> list[int]:
        return self.rows[index]

    def tokens_in(self, rows: int) -> int:
        return sum(len(self.documents[index]) for row in self.rows[:rows] for index in row)

    def collate(self, rows: list[list[int]]) -> dict[str, torch.Tensor]:
        width = max(sum(len(self.documents[index]) for index in row) for row in rows)
        shape = (len(rows), width)
        input_ids, positions = torch.zeros(shape, dtype=torch.long), torch.zeros(shape, dtype=torch.long)
        labels, owner = torch.full(shape, IGNORED), torch.full(shape, -1)
        for number, row in enumerate(rows):
            start = 0
            for index in row:
                ids = torch.as_tensor(self.documents[index], dtype=torch.long)
                end = start + len(ids)
                input_ids[number, start:end] = ids
                labels[number, start + 1 : end] = ids[1:]
                positions[number, start:end] = torch.arange(len(ids))
                owner[number, start:end] = index
                start = end
        return {
            "input_ids": input_ids,
            "labels": labels,
            "position_ids": positions,
            "attention_mask": _own_document_only(owner),
        }


def _first_fit(order: list[int], lengths: list[int], context: int) -> list[list[int]]:
    """Documents in rows of at most `context` tokens, each in the first of the rows opened last that has room."""
    rows: list[list[int]] = []
    room: list[int] = []
    for index in order:
        recent = range(max(0, len(rows) - OPEN_ROWS), len(rows))
        place = next((row for row in recent if room[row] >= lengths[index]), None)
        if place is None:
            place = len(rows)
            rows.append([])
            room.append(context)
        rows[place].append(index)
        room[place] -= lengths[index]
    return rows


def _own_document_only(owner: torch.Tensor) -> torch.Tensor:
    """Additive mask, rows × 1 × queries × keys: 0 for earlier tokens of the same document, else the least float."""
    same = owner[:, :, None] == owner[:, None, :]
    causal = torch.ones(owner.shape[1], owner.shape[1], dtype=torch.bool).tril()
    allowed = (same & causal)[:, None]
    return torch.zeros(allowed.shape).masked_fill(~allowed, torch.finfo(torch.float32).min)
