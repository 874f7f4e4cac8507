"""The labels that the engine samples for one document, asked for one document at a time and without padding."""

from __future__ import annotations

import numpy as np
import torch
from torch import nn

from compute.batches import Sequence
from compute.labels import key_hash, sample_labels


def sampled_labels(model: nn.Module, document: Sequence, *, seed: int) -> list[int]:
    """One label per position, with the document's own token at position 0, which is never a target."""
    with torch.no_grad():
        logits_TV = model(torch.tensor([list(document.token_ids)])).logits[0]
    positions = np.arange(1, len(document))
    hashes = np.full(len(positions), key_hash(document.key), dtype=np.uint64)
    return [document.token_ids[0], *sample_labels(logits_TV[:-1].softmax(-1), hashes, positions, seed).tolist()]
