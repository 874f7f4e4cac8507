"""The length of a document's gradient, of its tokens' inner products or of the gradient itself, in half precisions."""

from __future__ import annotations

import pytest
import torch

from compute import module_gradients
from compute.module_gradients import gradient_squares
from compute.tracked_modules import TrackedModule


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
