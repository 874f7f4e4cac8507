"""Factors on their way into a Delta table and back: whole, and in diagonal blocks without what lies outside of them."""

from __future__ import annotations

import copy
import weakref

import numpy as np
import pytest
import torch

from assets.curvature.factors import (
    StoredFactors,
    covariance_batches,
    covariances_table,
    eigenbasis_batches,
    eigenbasis_table,
    stored_covariances,
    stored_eigenbasis,
)
from assets.lake.lake import Lake
from assets.lake.matrices import diagonal_blocks
from assets.step.reading import Reading
from assets.study.refined_gradients import _rows, refined_gradients_table, stored_refined
from compute.block_diagonal import blocks_of, of_blocks
from compute.covariances import ModuleCovariances
from compute.curvature import Curvature
from compute.eigenbasis import decompose
from compute.query_gradients import dense_gradients, directed, query_gradients
from tests.compute.models import fit, make_case

SIDES = {"whole": ([7], [5]), "with a bias column": ([4, 4, 5], [2, 2, 2]), "wide and narrow": ([3, 3], [600, 600])}


def covariances(inputs: list[int], outputs: list[int]) -> ModuleCovariances:
    torch.manual_seed(0)
    rows = [[torch.randn(9, side) for side in sides] for sides in (inputs, outputs)]
    return ModuleCovariances(*(of_blocks([each.T @ each for each in side]) for side in rows), tokens=9)


@pytest.mark.parametrize("sides", SIDES.values(), ids=SIDES)
def test_factors_come_back_as_they_were(tmp_path, sides):
    lake, fitted = Lake(uri=str(tmp_path)), covariances(*sides)
    basis = decompose({"a": fitted})["a"]
    of_a, of_b = covariances_table("fit"), eigenbasis_table("fit")
    lake.overwrite(of_a, covariance_batches(of_a, "a", fitted, "stamp"), commit={})
    lake.overwrite(of_b, eigenbasis_batches(of_b, "a", basis, "stamp"), commit={})
    back, turned = stored_covariances(Reading(lake), "fit", "a"), stored_eigenbasis(Reading(lake), "fit", "a")
    assert back.tokens == 9
    for one, other in (
        (back.activation_II, fitted.activation_II),
        (back.gradient_OO, fitted.gradient_OO),
        (turned.activation_vectors_IA, basis.activation_vectors_IA),
        (turned.gradient_vectors_OS, basis.gradient_vectors_OS),
    ):
        assert type(one) is type(other)
        assert all(map(torch.equal, blocks_of(one), blocks_of(other)))
    assert torch.equal(turned.activation_values_A, basis.activation_values_A)
    assert torch.equal(turned.gradient_values_S, basis.gradient_values_S)
    stored = lake.collect(of_a, lake.scan(of_a))
    assert stored["covariance"].list.len().sum() == sum(side**2 for part in sides for side in part)


def test_refined_gradients_come_back_where_the_models_sums_are(tmp_path, monkeypatch):
    """In their dtype, and on their devices: once, and not at each batch."""
    lake, table, case = Lake(uri=str(tmp_path)), refined_gradients_table("study"), make_case("gpt2")
    torch.manual_seed(0)
    values = {m.name: torch.randn(m.out_features, m.in_dim) for m in case.modules}
    rows = (
        batch
        for name, each in values.items()
        for batch in _rows(None, "study", table, ("query-0", name), each, 0.5, "stamp")
    )
    lake.overwrite(table, rows, commit={})

    def stored() -> dict:
        return stored_refined(Reading(lake), "study", "query-0", case.model, case.modules)

    found = stored()
    assert list(found) == case.names
    assert all(torch.equal(found[name], each.double()) for name, each in values.items())
    monkeypatch.setattr("compute.passes.module_device", lambda *_: torch.device("meta"))
    assert {each.device.type for each in stored().values()} == {"meta"}


def test_rows_tell_their_blocks_in_any_order():
    import polars as pl

    rows = pl.DataFrame({"row": [3, 0, 2, 1], "values": [[4.0], [1.0, 2.0], [3.0], [5.0, 6.0]]})
    found = diagonal_blocks(rows, index="row", values="values")
    for block, expected in zip(found, ([[1, 2], [5, 6]], [[3]], [[4]]), strict=True):
        np.testing.assert_array_equal(block, expected)


class Watched:
    """Reads a module's factors as a lake would, new ones each time, and counts how many of them are alive."""

    def __init__(self, factors: dict) -> None:
        self.factors, self.readings, self.alive, self.most = factors, 0, 0, 0

    def __call__(self, name: str):
        found = copy.deepcopy(self.factors[name])
        self.readings, self.alive = self.readings + 1, self.alive + 1
        self.most = max(self.most, self.alive)
        weakref.finalize(found, self._gone)
        return found

    def _gone(self) -> None:
        self.alive -= 1


@pytest.mark.parametrize(("settings", "readings"), [({"rank": 3}, 2), ({"rank": None}, 2), ({"agreement": 0.99}, 3)])
def test_query_gradients_hold_one_modules_factors_at_a_time(settings, readings):
    """`readings` of every module for all queries: for norms and for preconditioning, and to turn components back where
    ranks are chosen over all modules."""
    case = make_case("gpt_neox", selection="all")
    fitted = fit(case)
    names = [module.name for module in case.modules]
    methods = ("ekfac", "trackstar")

    def gradients(curvature, **more):
        queries = case.queries
        return list(query_gradients(case.model, case.modules, queries, curvature, methods=methods, **settings, **more))

    vectors, values = Watched(fitted.curvature.eigenbasis), Watched(fitted.curvature.eigenvalues)
    streamed = Curvature(*(StoredFactors(names, each, keeps_all=False) for each in (vectors, values)))
    found = gradients(streamed, queries_at_once=len(case.queries))
    assert vectors.most == values.most == 1
    assert vectors.readings == readings * len(names) and values.readings == 2 * len(names)
    for (*one, expected), (*other, factors) in zip(gradients(fitted.curvature), found, strict=True):
        assert one == other
        assert all(torch.equal(expected[name].left_OR, factors[name].left_OR) for name in names)


def test_directions_hold_one_modules_factors_at_a_time():
    case = make_case("gpt_neox", selection="all")
    fitted = fit(case)
    names = [module.name for module in case.modules]
    vectors, values = Watched(fitted.curvature.eigenbasis), Watched(fitted.curvature.eigenvalues)
    streamed = Curvature(*(StoredFactors(names, each, keeps_all=False) for each in (vectors, values)))
    dense = [dense_gradients(case.model, case.modules, query) for query in case.queries]
    directed(("ekfac", "dot"), dense, streamed)
    assert vectors.most == values.most == 1 and vectors.readings == values.readings == len(names)


def test_factors_that_are_kept_are_read_once():
    read = Watched({"a": torch.ones(1), "b": torch.zeros(1)})
    kept = StoredFactors(["a", "b"], read, keeps_all=True)
    assert [float(kept[name]) for name in "abab"] == [1, 0, 1, 0] and (read.readings, read.alive) == (2, 2)
    assert list(kept) == ["a", "b"] and len(kept) == 2
