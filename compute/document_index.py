"""A pass that makes an index of documents: per document the sign code of its sketched, whitened gradient.

The whole gradient of a document is formed in the eigenbasis, module by module, as for Λ. B documents of a batch, T
positions, I inputs, O outputs.
"""

from __future__ import annotations

from collections.abc import Iterator
from collections.abc import Sequence as SequenceOf
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from torch import Tensor, nn

from compute.batches import Batch, Sequence
from compute.devices import input_device
from compute.eigenvalues import rotated_gradients
from compute.errors import BadInput
from compute.gradient_sketch import GradientSketch
from compute.module_gradients import squared_norms
from compute.passes import OnBatch, Parts, accumulation_dtype, backward_passes
from compute.sign_codes import encode
from compute.tracked_modules import TrackedModule


@dataclass
class IndexedDocuments:
    """Of some documents, by their places in the list that was given: sign codes (uint8) with their factors, and the
    norms of the plain gradients over the tracked modules."""

    index_B: list[int]
    codes: np.ndarray
    factors_B: np.ndarray
    norms_B: np.ndarray


def indexed_documents(
    model: nn.Module,
    sketch: GradientSketch,
    documents: SequenceOf[Sequence],
    *,
    token_budget: int = 8192,
    on_batch: OnBatch | None = None,
) -> Iterator[IndexedDocuments]:
    """The documents batch by batch, or in parts of one where memory runs out, the longest first.

    Raises BadInput naming a document whose loss is not finite, or where the sketch of one does not fit in memory.
    """
    dtype, device = accumulation_dtype(model), input_device(model)
    buckets: dict[int, Tensor] = {}  # by document, until its batch is done
    squares_D = torch.zeros(len(documents), dtype=dtype, device=device)

    def consume(batch: Batch, module: TrackedModule, activation_BTI: Tensor, gradient_BTO: Tensor) -> None:
        basis = sketch.curvature.eigenbasis[module.name]
        entries, squares = [], []
        for rotated_DSA in rotated_gradients(module, basis, activation_BTI.to(dtype), gradient_BTO.to(dtype)):
            squares.append(squared_norms(rotated_DSA))
            entries.append(sketch.kept(module.name, rotated_DSA))
        squares_B, kept_BN = torch.cat(squares).to(device, dtype), torch.cat(entries).to(device)
        places_B = batch.places.to(device)
        for index in batch.index_B:
            if index not in buckets:
                buckets[index] = torch.zeros(sketch.dimensions, dtype=dtype, device=device)
        # In place and last: where memory runs out before, nothing has been added.
        squares_D.index_add_(0, places_B, squares_B)
        for index, kept_N in zip(batch.index_B, kept_BN, strict=True):
            sketch.add(module.name, kept_N, buckets[index])

    def indexed(batch: Batch, b: slice) -> IndexedDocuments:
        empty_K = torch.zeros(sketch.dimensions, dtype=dtype, device=device)
        buckets_BK = torch.stack([buckets.get(index, empty_K) for index in batch.index_B[b]])
        codes, factors_B = encode(sketch.mixed(buckets_BK))
        norms_B = squares_D[batch.places[b]].sqrt().to(torch.float32).cpu().numpy()
        return IndexedDocuments(batch.index_B[b], codes, factors_B, norms_B)

    parts = Parts(max(1, len(documents)), "sketches of documents")
    settings = {"token_budget": token_budget, "on_batch": on_batch, "remedy": "give fewer options.index.dimensions"}
    for batch, _ in backward_passes(model, list(sketch.modules.values()), documents, consume, **settings):
        try:
            yield from parts.of(partial(indexed, batch), len(batch.index_B), device)
        except torch.OutOfMemoryError as error:
            raise BadInput(
                f"options.index.dimensions: {sketch.dimensions} of one document do not fit in the memory that is left; "
                "give fewer"
            ) from error
        for index in batch.index_B:
            buckets.pop(index, None)
