"""A document's gradient of one module's weight, G = Σ_t g_t aᵀ_t, formed from what a backward pass hands over.

B documents of a batch, D of them at once, T positions, I inputs (with the bias column), O outputs.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from compute.tracked_modules import TrackedModule

ELEMENTS_AT_ONCE = 2**24  # 64 MiB of float32 gradients formed at a time


def document_gradients(
    module: TrackedModule, activation_BTI: Tensor, gradient_BTO: Tensor, elements: int | None = None
) -> Iterator[Tensor]:
    """G_DOI in chunks of documents, in the batch's order, the bias gradient as the last column.

    `elements`: how many entries a chunk may have (one document's are always formed at once).
    """
    documents_at_once = max(1, (elements or ELEMENTS_AT_ONCE) // (module.out_features * module.in_dim))
    for activation_DTI, gradient_DTO in zip(
        activation_BTI.split(documents_at_once), gradient_BTO.split(documents_at_once), strict=True
    ):
        if module.has_bias:  # a column of ones costs less on the tokens than a column of sums on the gradients
            activation_DTI = torch.nn.functional.pad(activation_DTI, (0, 1), value=1.0)
        yield torch.bmm(gradient_DTO.transpose(1, 2), activation_DTI)
