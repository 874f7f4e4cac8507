"""A study whose covariances are cut into diagonal blocks, by its file: from the fit to the exact scores."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import polars as pl
import pytest

from compute.errors import BadInput
from orchestration.preflight import preflight
from orchestration.studies import read_study
from tests.orchestration.test_plan import plan, planned
from tests.orchestration.tiny_study import write_study

FIT = ("curvature/tiny/covariances", "curvature/tiny/eigenbasis", "curvature/tiny/eigenvalues")
STUDY = ("study/tiny/query_gradients", "study/tiny/influence", "study/tiny/document_norms", "study/tiny/candidates")
KEYS = ["method", "query_id", "document_id"]


def with_blocks(copied, blocks: int):
    """The copied study, whose checkpoint and corpus stay as they are."""
    path = write_study(copied.directory, curvature={"blocks": blocks})
    return replace(copied, study=read_study(path))


@pytest.mark.slow
def test_the_fit_the_gradients_and_the_scores_are_of_the_blocks(copied, finished):
    cut = with_blocks(copied, 2)
    before = {path: cut.table(path) for path in (*FIT, "study/tiny/influence")}
    assert cut.materialize(*FIT, *STUDY[:1]).success
    assert cut.materialize(*STUDY[1:], shards=("00000", "00002")).success
    assert cut.materialize("study/tiny/rankings").success

    whole, blocks = before[FIT[0]], cut.table(FIT[0])
    sides = ["module", "side"]
    for (module, side), rows in blocks.sort("row").group_by(sides):
        of_whole = whole.filter(module=module, side=side).sort("row")
        half = len(rows) // 2  # of 33 inputs, the last of which is the bias, 16 and 17
        for part in (slice(0, half), slice(half, None)):
            found = np.array(rows["covariance"].to_list()[part])
            expected = np.array(of_whole["covariance"].to_list())[part, part]
            np.testing.assert_allclose(found, expected, atol=1e-5 * np.abs(expected).max())
    lengths = blocks.group_by(sides).agg(pl.col("covariance").list.len().sum(), side_length=pl.len())
    expected = (pl.col("side_length") // 2) ** 2 + (pl.col("side_length") - pl.col("side_length") // 2) ** 2
    assert lengths.select((pl.col("covariance") == expected).all()).item()
    assert cut.table(FIT[1])["eigenvector"].list.len().sum() == blocks["covariance"].list.len().sum()

    both = cut.table("study/tiny/influence").join(before["study/tiny/influence"], on=KEYS, suffix="_whole")
    assert len(both) == len(before["study/tiny/influence"])
    correlation = dict(both.group_by("method").agg(pl.corr("score", "score_whole")).iter_rows())
    assert 0.5 < correlation["ekfac"] < 0.99999 and correlation["dot"] > 0.999999
    exact = cut.table("study/tiny/rankings").filter(method="ekfac").unique(KEYS)
    assert exact.select(pl.corr("score", "exact_score")).item() > 0.95


def test_one_block_leaves_a_fit_as_it_was(copied):
    same = with_blocks(copied, 1)
    versions = {path: same.lake.version(table) for path, table in fit_tables().items()}
    assert same.materialize(*FIT, reuse=True).success
    assert {path: same.lake.version(table) for path, table in fit_tables().items()} == versions


def fit_tables():
    from assets.curvature.factors import covariances_table, eigenbasis_table, eigenvalues_table

    tables = (covariances_table("tiny"), eigenbasis_table("tiny"), eigenvalues_table("tiny"))
    return {table.path: table for table in tables}


@pytest.mark.parametrize(
    ("blocks", "words"), [(3, "32 inputs, which that does not divide"), (64, "32 inputs, fewer than that")]
)
def test_blocks_that_do_not_fit_the_model_are_told_before_anything_runs(tmp_path, blocks, words):
    path = write_study(tmp_path, curvature={"blocks": blocks})
    with pytest.raises(BadInput, match=f"curvature.blocks: {blocks}, and .* has {words}"):
        preflight(read_study(path))
    assert words in plan(tmp_path / "home", path).stderr.replace("\n", " ")


def test_a_plan_knows_of_them(tmp_path):
    (tmp_path / "whole").mkdir(), (tmp_path / "cut").mkdir()
    whole, cut = (
        {stage["stage"]: stage for stage in planned(tmp_path / "home", path, "--hardware", "h100")["stages"]}
        for path in (write_study(tmp_path / "whole"), write_study(tmp_path / "cut", curvature={"blocks": 4}))
    )
    assert cut["covariances"]["lake_bytes"] == whole["covariances"]["lake_bytes"] / 4
    assert cut["eigenbasis"]["operations"] == whole["eigenbasis"]["operations"] / 16
    held, of_whole = (each["covariances"]["memory_by"]["covariances"] for each in (cut, whole))
    assert held == pytest.approx(of_whole / 4, rel=1e-3)
