"""Sign codes against plain numpy."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from compute.sign_codes import STEP, CodeQuery, encode


def normal(rows: int, dimensions: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(rows, dimensions, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_estimates_are_products_of_signs_with_the_rounded_query():
    documents, query = normal(130, 256), normal(1, 256, seed=1)[0]
    codes, factors = encode(documents)
    assert codes.shape == (130, 32) and codes.dtype == np.uint8
    step = STEP * float(query.square().mean().sqrt())
    rounded = step * (np.floor(query.numpy() / step).clip(-8, 7) + 0.5)
    signs = np.where(documents.numpy() > 0, 1, -1)
    expected = (documents.square().sum(1) / documents.abs().sum(1)).numpy() * (signs @ rounded)
    assert CodeQuery(query).estimates(codes, factors) == pytest.approx(expected, rel=1e-4, abs=1e-3)


def test_a_vector_with_itself_is_its_square():
    vectors = normal(5, 4096)
    codes, factors = encode(vectors)
    own = [CodeQuery(each).estimates(codes[at : at + 1], factors[at : at + 1])[0] for at, each in enumerate(vectors)]
    assert own == pytest.approx(vectors.square().sum(1).tolist(), rel=0.02)


def test_estimates_are_right_on_average_and_their_noise_is_that_of_the_paper():
    """Over many pairs with a cosine of 0.3: no bias, and √(π/2 − …) / √K of noise in the cosine."""
    dimensions, pairs = 1024, 2000
    query, other = normal(1, dimensions)[0], normal(pairs, dimensions, seed=1)
    query /= query.norm()
    other -= (other @ query)[:, None] * query
    other /= other.norm(dim=1, keepdim=True)
    documents = 0.3 * query + (1 - 0.09) ** 0.5 * other
    found = CodeQuery(query).estimates(*encode(documents))
    assert found.mean() == pytest.approx(0.3, abs=0.004)
    assert found.std() == pytest.approx((1 - 0.09) ** 0.5 * (np.pi / 2 - 1) ** 0.5 / dimensions**0.5, rel=0.15)


def test_nothing_has_no_product():
    vectors = torch.stack([torch.zeros(64), torch.ones(64)])
    codes, factors = encode(vectors)
    assert factors.tolist() == [0, 1]
    assert CodeQuery(torch.ones(64)).estimates(codes, factors)[0] == 0
    assert CodeQuery(torch.zeros(64)).estimates(codes, factors).tolist() == [0, 0]
    assert len(CodeQuery(torch.ones(64)).estimates(codes[:0], factors[:0])) == 0
