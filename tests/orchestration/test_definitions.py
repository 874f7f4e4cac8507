"""The Dagster code location: quick to load, the same assets as the command line's, and robust against one bad study."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from tests.orchestration.tiny_study import environment, write_study

LOAD = """
import sys
from orchestration.definitions import headwater
definitions = headwater()
heavy = [name for name in ("torch", "transformers", "mlflow", "altair", "datasets") if name in sys.modules]
assert not heavy, heavy
graph = definitions.resolve_asset_graph()
print(*sorted(key.to_user_string() for key in graph.get_all_asset_keys()))
"""

KEYS = {
    "corpus/tiny/source",
    "corpus/tiny/shards",
    "corpus/tiny/records",
    "corpus/tiny/rejected",
    "corpus/tiny/tombstones",
    "corpus/tiny/tokenizer",
    "corpus/tiny/documents",
    "model/tiny/checkpoint",
    "queries/tiny/queries",
    "curvature/tiny/sample",
    "curvature/tiny/covariances",
    "curvature/tiny/eigenbasis",
    "curvature/tiny/eigenvalues",
    "study/tiny/completions",
    "study/tiny/query_gradients",
    "study/tiny/influence",
    "study/tiny/document_norms",
    "study/tiny/candidates",
    "study/tiny/coverage",
    "study/tiny/rankings",
}


def load(home: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-c", LOAD], env=environment(home), capture_output=True, text=True)


def test_every_stage_is_an_asset_and_nothing_heavy_is_imported(tmp_path):
    (tmp_path / "home/studies").mkdir(parents=True)
    (tmp_path / "home/studies/tiny.yaml").symlink_to(write_study(tmp_path))
    result = load(tmp_path / "home")
    assert result.returncode == 0, result.stderr
    assert set(result.stdout.split()) == KEYS


def test_a_bad_study_is_reported_and_leaves_the_others_working(tmp_path):
    (tmp_path / "home/studies").mkdir(parents=True)
    (tmp_path / "home/studies/tiny.yaml").symlink_to(write_study(tmp_path))
    (tmp_path / "home/studies/bad.yaml").write_text("study: bad\ncorpsu: {}\n")
    result = load(tmp_path / "home")
    assert result.returncode == 0, result.stderr
    assert set(result.stdout.split()) == KEYS | {"study/bad"}  # shown with what is wrong
    assert "bad.yaml:2 corpsu" in result.stderr
