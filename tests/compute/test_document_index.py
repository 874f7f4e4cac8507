"""The pass that indexes documents where it is not plain: experts that no token reaches, and memory that runs out."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from compute.curvature import Curvature
from compute.document_index import encode, indexed_documents
from compute.errors import BadInput
from compute.gradient_sketch import GradientSketch
from tests.compute.models import fit, make_case
from tests.compute.routed import fitted, gradients_by_hand, make_routed


def in_order(found) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Codes, factors and norms in the order of the documents."""
    found = list(found)
    order = np.argsort(np.concatenate([each.index_B for each in found]))
    return tuple(
        np.concatenate([getattr(each, name) for each in found])[order] for name in ("codes", "factors_B", "norms_B")
    )


def test_experts_are_indexed_by_the_gradients_of_their_own_weights():
    routed = make_routed("mixtral")
    _, basis, eigenvalues = fitted(routed)
    sketch = GradientSketch(Curvature(basis, eigenvalues), routed.modules, 2**12)
    gradients = [gradients_by_hand(routed.model, routed.modules, document) for document in routed.documents]
    buckets = torch.zeros(len(gradients), sketch.dimensions, dtype=torch.float64)
    for name in sketch.modules:
        rotated = torch.stack([basis[name].rotate(each[name]) for each in gradients])
        sketch.add(name, sketch.kept(name, rotated), buckets)
    expected = sketch.mixed(buckets)
    codes, factors, norms = in_order(indexed_documents(routed.model, sketch, routed.documents, token_budget=30))
    agree = np.unpackbits(codes, axis=1).astype(bool) == (expected > 0).numpy()
    assert agree[expected.abs().numpy() > 1e-3 * float(expected.abs().max())].all()
    assert factors == pytest.approx((expected.square().sum(1) / expected.abs().sum(1)).tolist(), rel=1e-4)
    squares = [sum(float(each.square().sum()) for each in gradient.values()) for gradient in gradients]
    assert norms == pytest.approx(np.sqrt(squares), rel=1e-4)


@pytest.mark.parametrize("failing", [1, 2, 3, 4])
def test_memory_that_runs_out_adds_nothing_twice(monkeypatch, failing):
    """At the n-th module of the first batch."""
    case = make_case("gpt_neox")
    sketch = GradientSketch(fit(case).curvature, case.modules, 512)
    expected = in_order(indexed_documents(case.model, sketch, case.documents))
    calls, kept = [], sketch.kept

    def sometimes(name, rotated_DSA):
        calls.append(name)
        if len(calls) == failing:
            raise torch.OutOfMemoryError("injected")
        return kept(name, rotated_DSA)

    monkeypatch.setattr(sketch, "kept", sometimes)
    codes, factors, norms = in_order(indexed_documents(case.model, sketch, case.documents))
    assert len(calls) > failing
    assert np.unpackbits(codes ^ expected[0]).sum() <= 2  # of 4,608 bits: what is zero to rounding has either sign
    assert factors == pytest.approx(expected[1], rel=1e-6) and norms == pytest.approx(expected[2], rel=1e-6)


@pytest.mark.parametrize("most", [1, 2, 4])
def test_sketches_that_do_not_fit_are_encoded_in_halves(monkeypatch, most, caplog):
    case = make_case("gpt_neox")
    sketch = GradientSketch(fit(case).curvature, case.modules, 512)
    expected = in_order(indexed_documents(case.model, sketch, case.documents))
    limited_to(monkeypatch, most)
    codes, factors, norms = in_order(indexed_documents(case.model, sketch, case.documents))
    assert (codes == expected[0]).all() and (factors == expected[1]).all() and (norms == expected[2]).all()
    assert "out of memory: sketches of documents are halved to 4 at a time" in caplog.text


def test_a_sketch_that_does_not_fit_alone_is_told_of(monkeypatch):
    case = make_case("gpt_neox")
    sketch = GradientSketch(fit(case).curvature, case.modules, 512)
    limited_to(monkeypatch, 0)
    with pytest.raises(BadInput, match=r"options\.index\.dimensions: 512 of one document"):
        list(indexed_documents(case.model, sketch, case.documents))


def limited_to(monkeypatch, most: int) -> None:
    """Encoding more sketches at a time runs out of memory."""

    def limited(vectors_DK):
        if len(vectors_DK) > most:
            raise torch.OutOfMemoryError("injected")
        return encode(vectors_DK)

    monkeypatch.setattr("compute.document_index.encode", limited)
