"""Steps that hold a part of the factors at a time write what they write with all of them."""

from __future__ import annotations

import weakref
from dataclasses import replace

import numpy as np
import pytest

import assets.curvature.factors
from assets.specs.curvature import CurvatureSpec
from assets.specs.study import StudyOptions
from compute.factor_memory import bytes_to_fit, module_groups
from orchestration.preflight import study_skeleton
from orchestration.studies import read_study
from tests.orchestration.tiny_study import write_study

FIT = {"covariances": "covariance", "eigenbasis": "eigenvector", "eigenvalues": "eigenvalues"}


@pytest.fixture
def most_alive(monkeypatch) -> list[int]:
    """How many modules' eigenvectors are there at once: its last entry is the most."""
    alive, most, read = [0], [0], assets.curvature.factors.stored_eigenbasis

    def counted(*arguments):
        basis = read(*arguments)
        alive[0] += 1
        most.append(max(most[-1], alive[0]))
        weakref.finalize(basis, lambda: alive.__setitem__(0, alive[0] - 1))
        return basis

    monkeypatch.setattr(assets.curvature.factors, "stored_eigenbasis", counted)
    # In float32 on a CPU the placed eigenbasis is another object with the same tensors: count that one.
    monkeypatch.setattr("compute.eigenbasis.ModuleEigenbasis.to", lambda basis, *_: basis)
    return most


@pytest.mark.slow
def test_a_fit_in_several_passes_is_the_fit_in_one(copied, monkeypatch, most_alive):
    from compute.tracked_modules import select_modules

    path = write_study(copied.directory, curvature={"seed": 1})  # a fit that the lake does not have
    study = replace(copied, study=read_study(path))
    modules = select_modules(study_skeleton(study.study), "mlp")
    allowed = max(bytes_to_fit("eigenvalues", module) for module in modules)
    groups = module_groups(modules, lambda module: bytes_to_fit("eigenvalues", module), allowed)
    assert len(groups) == len(modules) == 4
    paths = ["curvature/tiny/sample", *(f"curvature/tiny/{stage}" for stage in FIT)]
    assert study.materialize(*paths).success
    assert most_alive[-1] == len(modules)
    one_pass = {stage: study.table(f"curvature/tiny/{stage}") for stage in FIT}

    del most_alive[1:]
    monkeypatch.setattr(CurvatureSpec, "memory_bytes", property(lambda _: allowed))
    result = study.materialize(*paths[1:])
    assert result.success and most_alive[-1] == 1
    for stage, values in FIT.items():
        keys = [name for name in ("module", "side", "row", "direction") if name in one_pass[stage].columns]
        one, several = (each.sort(keys) for each in (one_pass[stage], study.table(f"curvature/tiny/{stage}")))
        assert one.select(keys).equals(several.select(keys))
        expected, found = (np.concatenate(each[values].to_list()) for each in (one, several))
        np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-4 * np.abs(expected).max())
    table = assets.curvature.factors.eigenvalues_table("tiny")
    written = study.lake.version(table)
    assert study.materialize(*paths[1:], reuse=True).success
    assert study.lake.version(table) == written  # how it was fitted is no part of what it is


def test_query_gradients_and_exact_scores_hold_one_modules_factors(copied, finished, monkeypatch, most_alive):
    before = {name: finished.table(f"study/tiny/{name}") for name in ("query_gradients", "rankings")}
    monkeypatch.setattr(StudyOptions, "memory_bytes", property(lambda _: 2**16))
    assert copied.materialize("study/tiny/query_gradients", "study/tiny/rankings").success
    assert most_alive[-1] == 1
    keys = ["method", "query_id", "module", "component"]
    expected, found = (
        each.sort(keys) for each in (before["query_gradients"], copied.table("study/tiny/query_gradients"))
    )
    for side in ("left", "right"):
        one, other = (np.concatenate(each[side].to_list()) for each in (expected, found))
        np.testing.assert_allclose(other, one, rtol=1e-4, atol=1e-4 * np.abs(one).max())
    keys = ["method", "query_id", "ranking", "end", "rank"]
    expected, found = (each.sort(keys) for each in (before["rankings"], copied.table("study/tiny/rankings")))
    np.testing.assert_allclose(found["exact_score"].to_numpy(), expected["exact_score"].to_numpy(), rtol=1e-4)


def test_a_gradient_beyond_the_memory_is_told_in_the_log(copied, monkeypatch):
    said = "for one query's full gradients, 0 MiB beyond options.memory_mib (2048): they are whole"
    steps = ("query_gradients", "rankings")
    for memory, times in ((2**30, 0), (2**10, 1)):
        monkeypatch.setattr(StudyOptions, "memory_bytes", property(lambda _, memory=memory: memory))
        result = copied.materialize(*(f"study/tiny/{step}" for step in steps))
        told = " ".join(entry.user_message for entry in copied.instance.all_logs(result.run_id))
        assert [told.count(f"tiny: {step} holds 0 MiB {said}") for step in steps] == [times, times]


def failure(result) -> str:
    """The sentences of the step that failed."""
    (event,) = [event for event in result.all_events if event.is_step_failure]
    error, told = event.step_failure_data.error, []
    while error:
        told.append(error.message)
        error = error.cause
    return " ".join(told)


STAGES = {
    "curvature/tiny/covariances": "covariances needs about",
    "curvature/tiny/eigenbasis": "eigenbasis needs about",
    "curvature/tiny/eigenvalues": "eigenvalues needs about",
    "study/tiny/query_gradients": "query_gradients needs about",
    "study/tiny/influence": "influence needs about",
    "study/tiny/rankings": "rankings needs about",
}


def test_what_is_not_there_on_a_cpu_is_told_before_the_work(copied, monkeypatch):
    monkeypatch.setattr("compute.passes.run_batch", lambda *_: pytest.fail("a pass was begun"))
    monkeypatch.setattr("torch.linalg.eigh", lambda *_: pytest.fail("a matrix was decomposed"))
    monkeypatch.setattr("assets.model.memory.ENOUGH", 0)
    monkeypatch.setattr("compute.available_memory.available_memory", lambda: 1000)
    for path, words in STAGES.items():
        shards = ("00000", "00000") if path.endswith("influence") else ()
        others = ["study/tiny/document_norms", "study/tiny/candidates"] if shards else []
        told = failure(copied.materialize(path, *others, shards=shards))
        assert f"study tiny: {words}" in told and "and 0 MiB are there; " in told, told
