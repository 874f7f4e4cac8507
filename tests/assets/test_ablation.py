"""The ablation's parts: which settings are compared, rows of agreement, their evidence and their figure."""

from __future__ import annotations

import re

import numpy as np
import polars as pl
import pytest
from pydantic import ValidationError

from assets.findings.ablation.ablation import ablation_evidence, agreement_rows, summary
from assets.findings.ablation.own_setting import own_agreement, own_problem, own_sentence, precision_agreements
from assets.findings.ablation.scoring import Scored, in_precision
from assets.findings.ablation.variants import REFERENCE, Variant, own_variant, variants_of
from assets.findings.analysis import drawn
from assets.findings.evidence import evidence_rows
from assets.findings.uncertainty.values import mean_interval
from assets.specs.ablation import AblationSpec
from assets.specs.findings import FindingsSpec
from assets.specs.study import Study, StudySpec

SETTINGS = FindingsSpec(resamples=200)


def study(ablation: dict | bool | None, dtype: str = "float32", **options) -> Study:
    spec = {
        "study": "s",
        "corpus": {"name": "c", "path": ["*.jsonl"], "max_tokens": 512},
        "model": {"name": "m", "path": "model", "dtype": dtype},
        "query_model": {"name": "tuned", "path": "tuned", "dtype": dtype},
        "curvature": {"name": "f"},
        "queries": {"name": "q", "path": "queries.jsonl"},
        "options": {"ablation": ablation, **options},
    }
    return Study(StudySpec.model_validate(spec), ".")


def names(of: Study) -> list[str]:
    return [variant.name for variant in variants_of(of)]


def test_one_thing_differs_at_a_time_and_the_study_itself_is_there():
    assert names(study({"ranks": [16, 4], "blocks": [2]}, rank=16)) == [
        "full rank",
        "rank 4",
        "rank 16",
        "products in bfloat16",
        "K-FAC",
        "2 blocks",
        "rank 16, 2 blocks",
        "model in bfloat16",
    ]
    halves = names(
        study({"ranks": [], "blocks": [], "precisions": ["float16", "bfloat16"], "kfac": False}, rank="full")
    )
    assert halves == ["full rank", "products in bfloat16", "model in bfloat16", "model in float16"]
    few = {"ranks": [4], "blocks": [], "precisions": [], "kfac": False}
    own = study(few, dtype="bfloat16", rank="auto", products="bfloat16")
    assert own_variant(own) == Variant(rank="auto", products="bfloat16", dtype="bfloat16")
    assert names(own) == [
        "full rank",
        "rank 4",
        "rank auto",
        "rank auto, products in bfloat16, model in bfloat16",
    ]


def test_a_study_at_full_rank_is_the_reference_itself():
    whole = study({"ranks": [], "blocks": [], "precisions": [], "kfac": False}, rank="full")
    assert variants_of(whole) == [REFERENCE] and own_variant(whole) == REFERENCE


@pytest.mark.parametrize(
    ("dtype", "options", "precisions"),
    [
        ("bfloat16", {}, ("bfloat16",)),
        ("float16", {}, ("float16",)),
        ("float32", {"products": "bfloat16"}, ("bfloat16",)),
        ("float64", {"products": "bfloat16"}, ("bfloat16",)),
        ("float16", {"products": "bfloat16"}, ("bfloat16", "float16")),
        ("float32", {}, None),
        ("float64", {}, None),
        ("bfloat16", {"methods": ["dot"]}, None),
    ],
)
def test_a_precision_below_float32_is_compared_without_asking(dtype, options, precisions):
    found = study(None, dtype, **options).spec.ablation
    assert found == (precisions and AblationSpec.of_precisions(precisions))
    assert study(False, dtype, **options).spec.ablation is None


def test_what_is_compared_without_asking_is_the_study_itself_and_its_precision():
    own = study(None, "float16", rank=16)
    assert names(own) == ["full rank", "rank 16", "rank 16, model in float16", "model in float16"]
    assert own.spec.ablation.documents == 64 and own.spec.options.ablation is None
    asked = {"documents": 20, "precisions": []}
    assert study(asked, "float16").spec.ablation == AblationSpec.model_validate(asked)
    cut = own.spec.model_dump() | {"curvature": {"name": "f", "blocks": 2}}
    assert StudySpec.model_validate(cut).ablation == own.spec.ablation


def test_a_study_that_asks_for_none_is_dumped_as_before_and_read_again():
    for ablation in (None, False, {"documents": 20}):
        spec = study(ablation, "bfloat16").spec
        dumped = spec.model_dump(mode="json")["options"]["ablation"]
        assert dumped == (spec.ablation.model_dump(mode="json") if ablation else ablation)
        assert StudySpec.model_validate(spec.model_dump()) == spec


def test_both_models_are_opened_in_the_precision_of_the_setting():
    lowered = in_precision(study({}), "bfloat16").spec
    assert (lowered.model.dtype, lowered.query_model.dtype) == ("bfloat16", "bfloat16")
    assert lowered.model.path == "model" and study({}).spec.model.dtype == "float32"


@pytest.mark.parametrize(
    ("ablation", "options", "said"),
    [
        ({"documents": 5}, {}, "greater than or equal to 12"),
        ({"ranks": [8, 8]}, {}, "lists 8 twice"),
        ({"ranks": [0]}, {}, "greater than or equal to 1"),
        ({"precisions": ["int8"]}, {}, "'bfloat16' or 'float16'"),
        ({"precision": ["bfloat16"]}, {}, "Extra inputs"),
        ({"blocks": [1]}, {}, "greater than or equal to 2"),
        (True, {}, "valid dictionary or instance of AblationSpec"),
        (0, {}, "valid dictionary or instance of AblationSpec"),
        ({}, {"methods": ["dot"]}, "ablation compares scores by ekfac, which methods does not list"),
    ],
)
def test_what_makes_no_sense_is_refused(ablation, options, said):
    with pytest.raises(ValidationError, match=re.escape(said)):
        study(ablation, **options)


def test_blocks_are_cut_out_of_whole_covariances_alone():
    spec = study({"blocks": [2]}).spec.model_dump() | {"curvature": {"name": "f", "blocks": 2}}
    with pytest.raises(ValidationError, match=r"cuts whole covariances, and curvature\.blocks is 2; write blocks"):
        StudySpec.model_validate(spec)
    spec["options"]["ablation"]["blocks"] = []
    assert StudySpec.model_validate(spec).curvature.blocks == 2


@pytest.fixture(scope="module")
def rows() -> pl.DataFrame:
    """Three settings, the noisier the cheaper, of 5 queries and 120 documents."""
    draw = np.random.default_rng(0)
    expected = Scored(draw.standard_t(3, (5, 120)).astype(np.float32), 2.0)
    found = []
    for variant, noise in ((REFERENCE, 0.0), (Variant(rank=32), 0.1), (Variant(rank=8, products="bfloat16"), 0.5)):
        scores_QD = expected.scores_QD + noise * draw.standard_normal((5, 120)).astype(np.float32)
        scored = Scored(scores_QD, 2.0 - noise)
        found += [row | {"is_study": noise == 0.1} for row in agreement_rows(variant, list("abcde"), scored, expected)]
    return pl.DataFrame(found).with_row_index("position")


def test_there_is_one_row_per_setting_and_query(rows):
    assert rows.select("variant", "query_id").is_unique().all() and len(rows) == 15
    full = rows.filter(variant="full rank")
    assert (full["pearson"] == 1).all() and (full["spearman"] == 1).all() and (full["overlap"] == 20).all()
    assert rows["listed"].unique().to_list() == [20] and rows["documents"].unique().to_list() == [120]
    low = rows.filter(variant="rank 8, products in bfloat16")
    assert low["products"].unique().to_list() == ["bfloat16"] and low["rank"].unique().to_list() == ["8"]
    told = summary(rows)
    assert told["times_full_rank"].to_list() == [1.0, 0.95, 0.75]
    assert told["worst_pearson"].to_list() == [rows.filter(variant=v)["pearson"].min() for v in told["variant"]]


def test_evidence_has_the_mean_of_all_queries_and_its_interval(rows):
    found = {each.statistic: each for each in ablation_evidence(rows, SETTINGS)}
    assert len(found) == 6 and not any("full rank" in statistic for statistic in found)
    values_Q = rows.filter(variant="rank 32")["spearman"].to_numpy()
    each, interval = found["Spearman correlation, rank 32"], mean_interval(values_Q, resamples=200)
    assert (each.estimate, each.low) == (interval.estimate, interval.low)
    assert each.group == "all queries" and each.queries == 5 and each.method == "ekfac"
    share = found["share of the top 20 in common, rank 8, products in bfloat16"]
    assert share.estimate == pytest.approx(rows.filter(rank="8")["overlap"].mean() / 20)
    assert all(each.low <= each.estimate <= each.high <= 1 for each in found.values())


def as_scored(rows: pl.DataFrame, variant: str) -> pl.DataFrame:
    return rows.with_columns(is_study=pl.col("variant") == variant)


def test_the_studys_own_setting_is_told_with_its_precision_alone(rows):
    alone = rows.filter(rank="8").with_columns(
        variant=pl.lit("products in bfloat16"), rank=pl.lit("full"), is_study=False
    )
    alone = alone.with_columns(pearson=pl.col("pearson") ** 0.1)
    low = as_scored(pl.concat([rows, alone]), "rank 8, products in bfloat16")
    own, (precision,) = own_agreement(low), precision_agreements(low)
    part = low.filter("is_study").sort("pearson")
    assert (own.worst, own.query_id) == (part["pearson"][0], part["query_id"][0])
    assert own.mean == pytest.approx(part["pearson"].mean()) and precision.mean == pytest.approx(
        alone["pearson"].mean()
    )
    assert own_sentence(low) == (
        f"The study itself is scored by rank 8, products in bfloat16: Pearson {own.mean:.5f} on average, "
        f"{own.worst:.5f} for the worst query ({own.query_id}), against full rank in float32. Of that, products in "
        f"bfloat16 alone: Pearson {precision.mean:.5f} on average, {precision.worst:.5f} for the worst query "
        f"({precision.query_id})."
    )
    assert not precision_agreements(as_scored(rows, "rank 32"))
    assert own_sentence(as_scored(rows, "full rank")) == "The study itself is scored at full rank in float32."


def test_a_setting_whose_worst_query_agrees_too_little_is_flagged(rows):
    own = own_agreement(as_scored(rows, "rank 32"))
    assert own_problem("s", as_scored(rows, "rank 32"), own.worst) is None
    problem = own_problem("s", as_scored(rows, "rank 32"), own.worst + 1e-9)
    assert f"query {own.query_id} as the study takes them (rank 32)" in problem and "options.min_agreement" in problem
    assert own_problem("s", as_scored(rows, "full rank"), 1.0) is None


def test_the_figure_tells_agreement_the_worst_query_and_time(rows):
    evidence = pl.from_arrow(evidence_rows("ablation", ablation_evidence(rows, SETTINGS), "stamp"))
    figure = drawn("ablation", rows.sample(fraction=1.0, shuffle=True, seed=0), evidence)
    shown = re.findall(r">([^<>]+)</t(?:ext|span)>", figure.svg)
    places = [shown.index(name) for name in ("full rank", "rank 32", "rank 8, products in bfloat16")]
    assert places == sorted(places) and "0.75 ×" in shown and "top 20 in common" in shown
    assert f"{rows.filter(variant='rank 32')['pearson'].mean():.4f}" in shown
    worst = rows.filter(rank="8")["pearson"].min()
    stops = [float(stop) for stop in re.findall(r"estimate: ([-0-9.]+)", figure.svg)]
    assert any(abs(stop - worst) < 1e-6 for stop in stops)
    assert figure.png[:4] == b"\x89PNG" and "NaN" not in figure.svg


def test_the_figure_of_nothing_and_of_the_unknown_is_drawn(rows):
    assert "No setting was compared" in drawn("ablation", pl.DataFrame(), pl.DataFrame()).svg
    unknown = rows.with_columns(pearson=float("nan"))
    assert "NaN" not in drawn("ablation", unknown, pl.DataFrame()).svg
