"""The scan over an index of documents, on real tables of generated codes."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import polars as pl
import pyarrow as pa
import pytest
import torch

from assets.lake.lake import Lake
from assets.specs.study import IndexSpec, StudyOptions
from assets.step.reading import Reading
from assets.study import index_search
from assets.study.document_index import document_index_table
from compute.sign_codes import CodeQuery, encode

DIMENSIONS, SHARDS = 128, {"a": 70, "b": 1, "c": 25}


@pytest.fixture
def vectors():
    draw = torch.Generator().manual_seed(0)
    return {shard: torch.randn(count, DIMENSIONS, generator=draw) for shard, count in SHARDS.items()}


@pytest.fixture
def index(tmp_path, vectors):
    """The index of these vectors, as documents of a study called `any`; every third has a norm of zero."""
    lake, table = Lake(uri=str(tmp_path)), document_index_table("any")
    for shard, of_shard in vectors.items():
        codes, factors = encode(of_shard)
        rows = {
            "shard": [shard] * len(codes),
            "document_id": [f"{shard}{number:03}" for number in range(len(codes))],
            "code": [code.tobytes() for code in codes],
            "factor": pa.array(factors),
            "norm": pa.array(np.arange(len(codes)) % 3, pa.float32()),
            "fingerprint": ["0" * 16] * len(codes),
        }
        lake.overwrite(table, pa.table(rows, schema=table.schema), where={"shard": shard}, commit={})
    return lake


@pytest.mark.parametrize("rows", [1, 7, 4096])
@pytest.mark.parametrize("normed", [False, True])
def test_the_best_of_all_shards_are_proposed(index, vectors, monkeypatch, rows, normed):
    monkeypatch.setattr(index_search, "ROWS", rows)
    query = torch.randn(DIMENSIONS, generator=torch.Generator().manual_seed(1))
    opened = SimpleNamespace(
        reading=Reading(index), study=SimpleNamespace(name="any"), sketch=SimpleNamespace(of_direction=lambda _: query)
    )
    found = index_search.scan_index(opened, {}, normed=normed, count=12)
    expected = []
    for shard, of_shard in vectors.items():
        signs, levels = np.where(of_shard > 0, 1, -1), CodeQuery(query)
        rounded = levels.step * (np.floor(query.numpy() / levels.step).clip(-8, 7) + 0.5)
        factors = (of_shard.square().sum(1) / of_shard.abs().sum(1)).numpy()
        for number, estimate in enumerate(factors * (signs @ rounded)):
            norm = number % 3
            order = (estimate / norm if norm else 0.0) if normed else estimate
            expected.append((-order, f"{shard}{number:03}", estimate))
    best = sorted(expected)[:12]
    assert found["document_id"].to_list() == [document for _, document, _ in best]
    assert found["estimate"].to_list() == pytest.approx([estimate for *_, estimate in best], rel=1e-4)


def test_codes_of_a_slice_are_its_own():
    codes = np.arange(80, dtype=np.uint8).reshape(10, 8)
    batch = pa.record_batch({"code": pa.array([code.tobytes() for code in codes], pa.binary())})
    assert (index_search.codes_of(batch) == codes).all()
    assert (index_search.codes_of(batch.slice(3, 4)) == codes[3:7]).all()


def test_options_of_an_index_are_checked():
    with pytest.raises(ValueError, match="dimensions is 1000; give a power of two"):
        IndexSpec(dimensions=1000)
    with pytest.raises(ValueError, match="index estimates scores of ekfac, which methods does not list"):
        StudyOptions(methods=("dot",), index=IndexSpec())
    assert StudyOptions(index={}).index == IndexSpec() and StudyOptions().index is None


def test_agreement_is_merged_over_shards():
    """As over all rows at once, by numpy; and proposed are no more than there are."""
    from assets.study.index_agreement import agreement_rows
    from assets.study.index_statistics import statistics_rows

    draw = np.random.default_rng(0)
    whole, told = [], []
    for shard in range(4):
        rows = pl.DataFrame(
            {
                "query_id": np.repeat(["p", "q"], 40),
                "document_id": [f"{shard}-{number:02}" for number in [*range(40)] * 2],
                "score": 1000 + draw.standard_normal(80).astype(np.float32),
                "norm": draw.uniform(1, 2, 80).astype(np.float32),
            }
        ).with_columns(estimate=pl.col("score") + pl.Series(draw.standard_normal(80).astype(np.float32)))
        told += statistics_rows(rows, most=50)
        whole.append(rows)
    found = agreement_rows(told, candidates=15)
    assert [row["query_id"] for row in found] == ["p", "q"] and [row["documents"] for row in found] == [160, 160]
    for row, (_, part) in zip(found, pl.concat(whole).group_by("query_id", maintain_order=True), strict=True):
        score, estimate, norm = (part[name].to_numpy().astype(float) for name in ("score", "estimate", "norm"))
        assert row["pearson"] == pytest.approx(np.corrcoef(score, estimate)[0, 1], rel=1e-9)

        def first(values, count):
            return set(np.argsort(-values)[:count])

        assert 0 < row["overlap"] == len(first(score, 50) & first(estimate, 50)) < 50
        assert 0 < row["found"] == len(first(score, 10) & first(estimate, 15)) / 10 < 1
        assert row["found_normed"] == len(first(score / norm, 10) & first(estimate / norm, 15)) / 10
        assert row["proposed"] == 15
    assert [row["proposed"] for row in agreement_rows(told, candidates=400)] == [160, 160]


def test_a_query_that_scores_all_alike_has_no_correlation():
    from assets.study.index_agreement import agreement_rows
    from assets.study.index_statistics import statistics_rows

    rows = pl.DataFrame({"query_id": "q", "document_id": ["a", "b"], "score": 0.0, "norm": 0.0, "estimate": 0.0})
    (row,) = agreement_rows(statistics_rows(rows, most=50), candidates=1)
    assert np.isnan(row["pearson"]) and (row["documents"], row["overlap"], row["found"]) == (2, 2, 1.0)
