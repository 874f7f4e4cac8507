"""Sketches against gradients that autograd takes and whitens through dense matrices."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from compute.document_index import indexed_documents
from compute.errors import BadInput
from compute.gradient_sketch import GradientSketch
from compute.query_gradients import query_gradients
from compute.sign_codes import CodeQuery
from tests.compute import oracle
from tests.compute.models import fit, make_case


@pytest.fixture(scope="module", params=["gpt_neox", "llama"])
def case(request):
    return make_case(request.param)


@pytest.fixture(scope="module")
def curvature(case):
    return fit(case).curvature


@pytest.fixture(scope="module")
def gradients(case):
    """Per document and per query the gradient of each module."""
    return (
        [oracle.weight_gradients(case.model, case.names, each.token_ids) for each in case.documents],
        [oracle.weight_gradients(case.model, case.names, each.token_ids, each.loss_start) for each in case.queries],
    )


@pytest.fixture(scope="module")
def scores(case, curvature, gradients):
    """EK-FAC scores Q×D by dense matrices of every module."""
    documents, queries = gradients
    directed = [_directed(curvature, each) for each in queries]
    return np.array([[oracle.score(direction, each) for each in documents] for direction in directed])


def _directed(curvature, gradient):
    return {name: oracle.precondition(*_factors(curvature, name), each) for name, each in gradient.items()}


def _factors(curvature, name):
    basis, eigenvalues = curvature.eigenbasis[name], curvature.eigenvalues[name]
    return (
        basis.activation_vectors_IA,
        basis.gradient_vectors_OS,
        eigenvalues,
        curvature.damping * float(eigenvalues.mean()),
    )


def sketches(sketch, curvature, documents):
    """The documents' sketches, of dense gradients."""
    buckets = torch.zeros(len(documents), sketch.dimensions, dtype=torch.float64)
    for name in sketch.modules:
        rotated = torch.stack([curvature.eigenbasis[name].rotate(each[name]) for each in documents])
        sketch.add(name, sketch.kept(name, rotated), buckets)
    return sketch.mixed(buckets)


def directions(case, curvature):
    found = query_gradients(case.model, case.modules, case.queries, curvature, rank=None, methods=["ekfac"])
    return [{name: each.dense() for name, each in factors.items()} for _, _, factors in found]


def test_with_as_many_dimensions_as_directions_products_are_the_scores(case, curvature, gradients, scores):
    sketch = GradientSketch(curvature, case.modules, 2**13)
    parameters = sum(module.out_features * module.in_dim for module in case.modules)
    assert sketch.directions == parameters <= sketch.dimensions
    queries = torch.stack([sketch.of_direction(each) for each in directions(case, curvature)])
    products = queries @ sketches(sketch, curvature, gradients[0]).T
    assert oracle.relative_error(products, scores) < case.exact


def test_with_fewer_they_are_right_on_average_over_the_directions_that_are_kept(case, curvature, gradients):
    """The mean over seeds nears the product over the kept directions alone, as fast as its noise allows."""
    whitened = [[], []]
    for side, of_side in zip(whitened, gradients, strict=True):
        for gradient in of_side:
            parts = []
            for name, each in gradient.items():
                Q_A, Q_S, eigenvalues, damping = _factors(curvature, name)
                rotated = Q_S.T @ oracle.whitened(Q_A, Q_S, eigenvalues, damping, each) @ Q_A
                parts.append((eigenvalues / (eigenvalues + damping), rotated))
            side.append(parts)
    shares = torch.cat([share.flatten() for share, _ in whitened[0][0]])
    kept = shares >= shares.sort(descending=True).values[int(0.2 * len(shares)) - 1]
    documents, queries = (
        torch.stack([torch.cat([each.flatten() for _, each in parts])[kept] for parts in side]) for side in whitened
    )
    seeds, dimensions = 200, 64
    made = [GradientSketch(curvature, case.modules, dimensions, seed=seed) for seed in range(seeds)]
    assert {sketch.directions for sketch in made} == {int(kept.sum())}
    asked = directions(case, curvature)
    products = torch.stack(
        [
            torch.stack([sketch.of_direction(each) for each in asked]) @ sketches(sketch, curvature, gradients[0]).T
            for sketch in made
        ]
    )
    noise = queries.norm(dim=1)[:, None] * documents.norm(dim=1) / dimensions**0.5
    expected = queries @ documents.T
    assert ((products.mean(0) - expected).abs() < 5 * noise / seeds**0.5).all()
    assert products.std(0).div(noise).mean() == pytest.approx(1, abs=0.15)


def test_a_sketch_is_a_function_of_its_arguments(case, curvature, gradients):
    one, same, other = (
        sketches(GradientSketch(curvature, case.modules, 128, seed=seed), curvature, gradients[0]) for seed in (0, 0, 1)
    )
    assert torch.equal(one, same) and not torch.allclose(one, other)


def test_the_pass_gives_the_codes_of_the_oracles_gradients(case, curvature, gradients):
    sketch = GradientSketch(curvature, case.modules, 512)
    expected = sketches(sketch, curvature, gradients[0])
    seen = []
    for token_budget in (28, 10_000):
        found = list(indexed_documents(case.model, sketch, case.documents, token_budget=token_budget))
        order = np.argsort(np.concatenate([each.index_B for each in found]))
        codes, factors, norms = (
            np.concatenate([getattr(each, name) for each in found])[order] for name in ("codes", "factors_B", "norms_B")
        )
        bits = np.unpackbits(codes, axis=1).astype(bool)
        clear = expected.abs().numpy() > 1e-6 * expected.abs().max().item()
        assert ((bits == (expected > 0).numpy()) | ~clear).all()
        l1, squares = expected.abs().sum(1).numpy(), expected.square().sum(1).numpy()
        assert factors == pytest.approx(squares / l1, rel=1e-5)
        assert norms == pytest.approx([oracle.norm(each) for each in gradients[0]], rel=1e-5)
        seen.append(codes)
    assert np.mean(seen[0] == seen[1]) > 0.99


def test_codes_tell_documents_apart(case, curvature, scores):
    sketch = GradientSketch(curvature, case.modules, 2**13)
    found = list(indexed_documents(case.model, sketch, case.documents))
    correlations = []
    for asked, of_query in zip(directions(case, curvature), scores, strict=True):
        query, estimates = CodeQuery(sketch.of_direction(asked)), np.empty(len(case.documents))
        for each in found:
            estimates[each.index_B] = query.estimates(each.codes, each.factors_B)
        correlations.append(np.corrcoef(estimates, of_query)[0, 1])
    assert np.mean(correlations) > 0.8


def test_a_module_without_curvature_adds_nothing(case, curvature, gradients):
    name = case.names[0]
    kept = curvature.eigenvalues[name]
    try:
        curvature.eigenvalues[name] = torch.zeros_like(kept)
        sketch = GradientSketch(curvature, case.modules, 2**13)
        assert sketch.directions == sum(each.numel() for each in curvature.eigenvalues.values()) - kept.numel()
        queries = torch.stack([sketch.of_direction(each) for each in directions(case, curvature)])
        assert torch.isfinite(queries).all()
        assert torch.isfinite(sketches(sketch, curvature, gradients[0])).all()
    finally:
        curvature.eigenvalues[name] = kept


@pytest.mark.parametrize("dimensions", [0, 32, 100])
def test_dimensions_are_a_power_of_two(case, curvature, dimensions):
    with pytest.raises(BadInput, match=f"options.index.dimensions is {dimensions}; give a power of two"):
        GradientSketch(curvature, case.modules, dimensions)
