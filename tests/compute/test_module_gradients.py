"""Lengths of documents' gradients, to the digits that float32 has."""

from __future__ import annotations

import pytest
import torch

from compute import module_gradients
from compute.module_gradients import gradient_squares, squared_norms
from compute.tracked_modules import TrackedModule


@pytest.mark.parametrize("shape", [(2, 1024, 4096), (2, 4096, 1024), (3, 5), (2, 1, 1)])
def test_lengths_of_large_gradients_keep_their_digits(shape):
    """Of 4 million entries in one sum four digits would be left: 1.7e-4."""
    gradient = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    expected = gradient.double().flatten(1).square().sum(1)
    assert ((squared_norms(gradient).double() - expected).abs() / expected).max() < 1e-6


def test_half_precision_is_summed_in_float32():
    gradient = torch.randn(2, 64, 512, generator=torch.Generator().manual_seed(0)).bfloat16()
    expected = gradient.double().flatten(1).square().sum(1)
    found = squared_norms(gradient)
    assert found.dtype == torch.float32
    assert ((found.double() - expected).abs() / expected).max() < 1e-6


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("at_once", [1, 2**24])
@pytest.mark.parametrize("has_bias", [True, False])
def test_inner_products_of_half_precisions_are_not_rounded(monkeypatch, dtype, at_once, has_bias):
    """Of gradients that all but cancel over a document: what is rounded of each product would be much of the sum."""
    monkeypatch.setattr(module_gradients, "ELEMENTS_AT_ONCE", at_once)
    torch.manual_seed(0)
    activation_BTI, gradient_BTO = torch.randn(5, 20, 64) + 1, torch.randn(5, 20, 128)
    gradient_BTO -= gradient_BTO.mean(1, keepdim=True)
    module = TrackedModule("a", 64, 128, has_bias)
    narrow = activation_BTI.to(dtype), gradient_BTO.to(dtype)
    found, expected = (gradient_squares(module, *each) for each in (narrow, [each.double() for each in narrow]))
    assert found.dtype == torch.float32
    torch.testing.assert_close(found.double(), expected, rtol=1e-5, atol=0)
