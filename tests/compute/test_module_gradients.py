"""Lengths of documents' gradients, to the digits that float32 has."""

from __future__ import annotations

import pytest
import torch

from compute.module_gradients import squared_norms


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
