"""A document's gradient of one module's weight, G = Σ_t g_t aᵀ_t, and its length, of what a backward pass hands over.

B documents of a batch, D of them at once, T positions, I inputs (with the bias column), O outputs.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from compute.tracked_modules import TrackedModule

ELEMENTS_AT_ONCE = 2**24  # 64 MiB of float32 gradients formed at a time


def document_gradients(module: TrackedModule, activation_BTI: Tensor, gradient_BTO: Tensor) -> Iterator[Tensor]:
    """G_DOI in chunks of documents, in the batch's order, the bias gradient as the last column."""
    documents_at_once = max(1, ELEMENTS_AT_ONCE // (module.out_features * module.in_dim))
    for activation_DTI, gradient_DTO in zip(
        activation_BTI.split(documents_at_once), gradient_BTO.split(documents_at_once), strict=True
    ):
        gradient_DOT = gradient_DTO.transpose(1, 2)
        if not module.has_bias:
            yield torch.bmm(gradient_DOT, activation_DTI)
            continue
        # A column of ones on the tokens would make a matrix of an odd width of them, which takes half as long again.
        gradient_DOI = gradient_DOT.new_empty(len(gradient_DOT), module.out_features, module.in_dim)
        torch.bmm(gradient_DOT, activation_DTI, out=gradient_DOI[..., :-1])
        torch.sum(gradient_DTO, 1, out=gradient_DOI[..., -1])
        yield gradient_DOI


def gradient_squares(module: TrackedModule, activation_BTI: Tensor, gradient_BTO: Tensor) -> Tensor:
    """‖Σ_t g_t aᵀ_t‖² = Σ_tt' (g_t·g_t')(a_t·a_t') per document, or from the formed gradient where they are long."""
    _, positions, inputs = activation_BTI.shape
    outputs = gradient_BTO.shape[2]
    if positions * (inputs + outputs) > inputs * outputs:
        chunks = document_gradients(module, activation_BTI, gradient_BTO)
        return torch.cat([squared_norms(gradient_DOI) for gradient_DOI in chunks])
    gram_BTT = _inner_products(activation_BTI)
    gram_BTT += module.has_bias  # the bias column of ones adds 1 to every inner product
    gram_BTT *= _inner_products(gradient_BTO)
    return gram_BTT.sum((1, 2))


def _inner_products(values_BTM: Tensor) -> Tensor:
    """Those of each document's tokens with each other, B×T×T, as sums are: a lower precision would round them before
    they are multiplied and cancel."""
    dtype = sum_dtype(values_BTM.dtype)
    if values_BTM.dtype == dtype:
        return values_BTM @ values_BTM.transpose(1, 2)
    if values_BTM.is_cuda:
        return torch.bmm(values_BTM, values_BTM.transpose(1, 2), out_dtype=dtype)
    # A CPU gives products in the dtype of what is multiplied: of some documents at a time that is widened.
    documents, positions, features = values_BTM.shape
    gram_BTT = values_BTM.new_empty(documents, positions, positions, dtype=dtype)
    documents_at_once = max(1, ELEMENTS_AT_ONCE // (positions * features))
    for values_DTM, gram_DTT in zip(
        values_BTM.split(documents_at_once), gram_BTT.split(documents_at_once), strict=True
    ):
        wide_DTM = values_DTM.to(dtype)
        torch.bmm(wide_DTM, wide_DTM.transpose(1, 2), out=gram_DTT)
    return gram_BTT


def sum_dtype(products: torch.dtype) -> torch.dtype:
    """Sums of products in a lower precision are float32."""
    return torch.promote_types(products, torch.float32)


def squared_norms(gradient: Tensor) -> Tensor:
    """‖G‖² of each document's gradient D×O×I, or of its bias D×O; summed in float32 at least.

    Row by row: of millions of entries at once PyTorch's norm on a CPU keeps four digits in float32.
    """
    squares = torch.linalg.vector_norm(gradient, dim=-1, dtype=sum_dtype(gradient.dtype)).square()
    return squares.flatten(1).sum(1) if squares.ndim > 1 else squares
