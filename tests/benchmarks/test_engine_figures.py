"""What a comparison's page and targets make of its runs, without running anything."""

from __future__ import annotations

import ast
import dataclasses
import json

import pytest

from benchmarks.engine import trained
from benchmarks.engine.__main__ import _options
from benchmarks.engine.agreement import Agreement
from benchmarks.engine.comparison import Comparison
from benchmarks.engine.figures import Figures
from benchmarks.engine.processes import ROOT
from benchmarks.engine.report import as_markdown
from benchmarks.engine.setting import QUICK
from benchmarks.engine.targets import targets
from benchmarks.engine.trained import trained_model

FACTS = {
    "training": {"steps": 1, "nats_per_token": 1.0, "before": 2.0},
    "hardware": {"cores": 2},
    "date": "2026-11-28",
    "load_before": 0.0,
    "load_after": 0.0,
    "repetitions": 3,
    "clock": "wall",
    "factors_once": True,
}


def runs(*seconds: float, part: str = "scores", mib: float = 1.0) -> list[dict]:
    return [{"seconds": {part: {"wall": each}}, "added_mib": mib, "peak_mib": mib} for each in seconds]


def compared(**setting) -> Comparison:
    """Three repetitions, of which the first met a busy machine, and factors that were fitted once."""
    found = Comparison(dataclasses.replace(QUICK, memory_mib=10, **setting))
    found.runs = {
        "training pass": runs(10.0, 2.0, 2.0),
        "floor": runs(10.0, 1.0, 1.0, mib=100.0),
        "headwater factors": runs(4.0, part="covariances"),
        f"headwater, {QUICK.queries} queries": runs(10.0, 2.0, 2.0, mib=105.0),
        f"headwater, {QUICK.many_queries} queries": runs(10.0, 2.0, 2.0, mib=105.0),
    }
    return found


def row(page: str, name: str) -> list[str]:
    (line,) = (line for line in page.splitlines() if line.startswith(f"| {name} |"))
    return [cell.strip() for cell in line.strip("|").split("|")]


@pytest.mark.parametrize(
    ("listed", "overlap", "meets"), [(50, 45, True), (50, 44, False), (8, 7, False), (8, 8, True), (10, 9, True)]
)
def test_a_share_of_a_shorter_list_is_not_rounded_down(listed, overlap, meets):
    found = Agreement(1.0, 1.0, 1.0, 1.0, float(overlap), overlap, listed)
    assert found.meets == meets


def test_what_ran_once_is_divided_by_the_median_of_all_repetitions():
    figures = Figures(compared())
    assert figures.ratio("headwater factors", "training pass") == 2.0
    assert figures.ratios(f"headwater, {QUICK.queries} queries", "training pass") == [1.0, 1.0, 1.0]
    assert figures.ratio("floor", "headwater factors") == 0.25


def test_what_ran_once_is_told():
    comparison = compared()
    page = as_markdown(comparison, FACTS)
    assert row(page, "headwater factors")[3] == "one run"
    assert row(page, "training pass")[3] == "1.00 – 1.00"
    (factors,) = (target for target in targets(Figures(comparison)) if target.what.startswith("factors"))
    assert "2.00 × a training pass (covariances 4.00 s, one run)" in factors.measured


@pytest.mark.parametrize(
    ("our_batch", "documents", "allowed"), [(None, 8, True), (8, 8, True), (4, 4, False), (16, 16, True)]
)
def test_batches_of_ours_are_named_and_scale_the_floors_activations(our_batch, documents, allowed):
    comparison = compared(our_batch=our_batch)
    (memory,) = (target for target in targets(Figures(comparison)) if target.what.startswith("peak memory"))
    assert f"our batches hold {documents} documents" in memory.measured and memory.met == allowed
    assert f"× {documents}/8" in memory.must
    assert f"our_batch {documents};" in as_markdown(comparison, FACTS)


def test_a_batch_of_ours_changes_our_token_budget_alone():
    setting = dataclasses.replace(QUICK, our_batch=2)
    assert setting.token_budget == QUICK.token_budget == QUICK.our_token_budget == 8 * 64
    assert setting.our_token_budget == 2 * 64
    assert _options(["--quick", "--our-batch", "2"]).our_batch == 2 and _options([]).our_batch is None


def test_the_trained_model_is_the_same_whatever_our_batch(tmp_path, monkeypatch):
    monkeypatch.setattr(trained, "_train", lambda model, setting: {})
    first = trained_model(QUICK, tmp_path)
    assert trained_model(dataclasses.replace(QUICK, our_batch=2), tmp_path) == first
    assert json.loads((first / "training.json").read_text()) == {}
    assert first.name == "model-32-9158bbf9b3"


def test_the_engines_benchmark_stands_without_the_tests():
    for path in (ROOT / "benchmarks" / "engine").glob("*.py"):
        imported = [node.module for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.ImportFrom)]
        assert not [name for name in imported if name and name.split(".")[0] == "tests"], path
