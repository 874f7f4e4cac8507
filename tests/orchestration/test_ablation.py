"""The ablation of a study that was run: its rows against scores by hand, its sample, what is kept, what is refused."""

from __future__ import annotations

import hashlib
import re
from dataclasses import replace
from types import SimpleNamespace

import dagster as dg
import numpy as np
import polars as pl
import pytest
import yaml
from scipy import stats
from typer.testing import CliRunner

from assets.findings.ablation import scoring
from assets.findings.ablation.costs import study_ablation_cost
from assets.findings.ablation.own_setting import own_sentence
from assets.findings.ablation.variants import Variant, variants_of
from assets.model.memory import cost_setting
from assets.step.reading import Reading
from assets.study.completions import completions_table, query_sequences
from assets.study.opened import OpenedStudy
from compute.architecture import architecture_of
from compute.cost import CostModel
from compute.tracked_modules import select_modules
from orchestration.cli import app
from orchestration.graph import study_tables
from orchestration.preflight import study_skeleton
from orchestration.resources import resources_of
from orchestration.results import Results
from orchestration.run import run_study
from orchestration.studies import read_study
from tests.compute.test_cost import counted
from tests.docs.blocks import commands
from tests.orchestration.copied_study import CopiedStudy, copy_of
from tests.orchestration.tiny_study import QUERIES, write_study

ABLATION = {"documents": 40, "ranks": [4, 16], "blocks": [2], "precisions": ["bfloat16", "float16"]}
ALL = [
    "full rank",
    "rank 4",
    "rank 8",
    "rank 16",
    "products in bfloat16",
    "K-FAC",
    "2 blocks",
    "rank 8, 2 blocks",
    "model in bfloat16",
    "model in float16",
]


def with_options(copied: CopiedStudy, **options) -> CopiedStudy:
    """The study with other options; its file says so too."""
    path = copied.directory / "tiny.yaml"
    file = yaml.safe_load(path.read_text())
    path.write_text(yaml.safe_dump(file | {"options": file["options"] | options}))
    return replace(copied, study=read_study(path))


def run(copied: CopiedStudy) -> None:
    run_study(copied.study, copied.instance, resources_of(copied.home))


@pytest.fixture(scope="module")
def ablated(finished, tmp_path_factory):
    """The finished study once more, with an ablation."""
    directory = tmp_path_factory.mktemp("ablated")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DAGSTER_HOME", str(directory / "copy/home/dagster"))
        copied = with_options(copy_of(finished.study, directory), ablation=ABLATION)
        with copied.instance:
            run(copied)
            yield copied


@pytest.fixture(scope="module")
def rows(ablated) -> pl.DataFrame:
    return ablated.table("study/tiny/ablation").sort("position")


@pytest.fixture(scope="module")
def reading(ablated) -> Reading:
    return Reading(ablated.lake)


def test_every_setting_has_one_row_per_query(rows):
    assert rows["variant"].unique(maintain_order=True).to_list() == ALL
    ids = sorted(query["id"] for query in QUERIES)
    assert all(sorted(part["query_id"]) == ids for part in rows.partition_by("variant"))
    assert rows.filter("is_study")["variant"].unique().to_list() == ["rank 8"]  # the study's own
    assert rows["documents"].unique().to_list() == [40] and rows["listed"].unique().to_list() == [6]
    assert rows["seconds"].min() > 0 and rows.select("variant", "seconds").n_unique() == len(ALL)


def test_full_rank_agrees_with_itself_at_exactly_one(rows):
    full, others = rows.filter(variant="full rank"), rows.filter(pl.col("variant") != "full rank")
    assert (full["pearson"] == 1).all() and (full["spearman"] == 1).all() and (full["overlap"] == 6).all()
    assert (others["pearson"] < 1).all() and (others["pearson"] > 0.5).all()
    worst = dict(others.group_by("variant").agg(pl.col("pearson").min()).iter_rows())
    assert worst["rank 4"] < worst["rank 8"] < worst["rank 16"]


def test_rows_are_those_of_scores_by_hand(rows, ablated, reading):
    """Gradients and passes by the engine itself, setting by setting; agreement by scipy."""
    from compute.checkpoint import DTYPES, load_model
    from compute.influence import score_documents
    from compute.query_gradients import query_gradients

    opened = OpenedStudy(reading, ablated.study)
    queries = query_sequences(reading.scan(completions_table("tiny")).sort("position").collect().to_dicts())
    documents = sampled(ablated)

    def scores(rank=None, method="ekfac", dtype="float32", products=None, curvature=opened.curvature) -> np.ndarray:
        model = load_model(str(ablated.directory / "model"), dtype=dtype)
        settings = {"rank": rank, "methods": (method,)}
        gradients = [each for _, _, each in query_gradients(model, opened.modules, queries, curvature, **settings)]
        products = products and DTYPES[products]
        return score_documents(model, opened.modules, gradients, documents, products=products).scores_QD

    full_QD, in_blocks = scores(), fitted_in_blocks(ablated, opened)
    by_hand = {
        "rank 4": scores(rank=4),
        "rank 8": scores(rank=8),
        "rank 16": scores(rank=16),
        "products in bfloat16": scores(products="bfloat16"),
        "K-FAC": scores(method="kfac"),
        "2 blocks": scores(curvature=in_blocks),
        "rank 8, 2 blocks": scores(rank=8, curvature=in_blocks),
        "model in bfloat16": scores(dtype="bfloat16"),
        "model in float16": scores(dtype="float16"),
    }
    assert set(by_hand) | {"full rank"} == set(ALL)
    for variant, found_QD in by_hand.items():
        for number, query in enumerate(queries):
            row = rows.filter(variant=variant, query_id=query.key).row(0, named=True)
            found_D, full_D = found_QD[number].astype(np.float64), full_QD[number].astype(np.float64)
            # The same but for batches and their rounding, which moves a correlation near 1 by next to nothing.
            assert row["pearson"] == pytest.approx(stats.pearsonr(found_D, full_D)[0], abs=1e-4), variant
            assert row["spearman"] == pytest.approx(stats.spearmanr(found_D, full_D)[0], abs=2e-3), variant
            tops = [set(np.argsort(-scores_D)[:6]) for scores_D in (found_D, full_D)]
            assert abs(row["overlap"] - len(tops[0] & tops[1])) <= 1, variant


def fitted_in_blocks(ablated: CopiedStudy, opened: OpenedStudy):
    """From the model, not from the stored covariances: the same blocks, by a pass that never forms the rest."""
    from compute.covariances import fit_covariances
    from compute.curvature import Curvature
    from compute.eigenbasis import decompose
    from compute.eigenvalues import fit_eigenvalues

    documents, settings = sampled(ablated, "curvature/tiny/sample"), {"labels": "sampled", "seed": 0}
    basis = decompose(fit_covariances(opened.model, opened.modules, documents, blocks=2, **settings))
    return Curvature(basis, fit_eigenvalues(opened.model, opened.modules, basis, documents, **settings), 0.1)


def sampled(ablated: CopiedStudy, table: str = "study/tiny/ablation_sample") -> list:
    from compute.batches import Sequence

    sample = ablated.table(table).sort("position")
    return [Sequence(*row) for row in sample.select("document_id", "token_ids").iter_rows()]


def test_the_sample_is_drawn_by_hash_over_all_shards(ablated):
    documents = ablated.table("corpus/tiny/documents")
    draw = {name: hashlib.blake2b(f"1:{name}".encode(), digest_size=8).digest() for name in documents["document_id"]}
    expected = sorted(draw, key=lambda name: int.from_bytes(draw[name], "little"))[:40]
    sample = ablated.table("study/tiny/ablation_sample").sort("position")
    assert sample["document_id"].to_list() == expected and sample["shard"].n_unique() == 3
    both = sample.join(documents, on="document_id", suffix="_there")
    assert (both["token_ids"] == both["token_ids_there"]).all() and (both["shard"] == both["shard_there"]).all()


def test_evidence_figure_checks_and_the_report_tell_of_it(rows, ablated):
    evidence = ablated.table("study/tiny/evidence").filter(analysis="ablation")
    assert len(evidence) == 3 * (len(ALL) - 1) and (evidence["group"] == "all queries").all()
    told = evidence.filter(statistic="Pearson correlation, rank 4").row(0, named=True)
    assert told["estimate"] == pytest.approx(rows.filter(variant="rank 4")["pearson"].mean())
    assert told["low"] <= told["estimate"] <= told["high"] <= 1 and told["queries"] == len(QUERIES)
    page = ablated.table("study/tiny/report")["html"][0]
    section = page.partition('<section id="ablation"')[2].partition("</section>")[0]
    assert "<svg" in section and "Pearson correlation, rank 16" in section and "study/tiny/ablation" in section
    key = dg.AssetKey(["study", "tiny", "ablation"])
    shown = ablated.instance.get_latest_materialization_event(key).asset_materialization.metadata
    assert {"how well settings that cost less agree with full-rank ek-fac", "agreement", "evidence"} <= shown.keys()
    assert "rank 4" in shown["agreement"].md_str and shown["settings"].value == len(ALL)
    own = own_sentence(rows)
    assert (
        own.startswith("The study itself is scored by rank 8: Pearson 0.9")
        and shown["the study's own setting"].value == own
    )
    assert own in section.replace("&#39;", "'") and "Agreement with full rank in float32" in page
    for name in ("agreement_finite", "every_query_once", "own_setting_agrees"):
        record = ablated.instance.event_log_storage.get_asset_check_execution_history(dg.AssetCheckKey(key, name), 1)
        assert record[0].event.dagster_event.event_specific_data.passed, name


def test_the_page_about_it_asks_what_can_be_answered(rows, ablated):
    (query,) = {
        word for _, words in commands("headwater") for word in words if re.match("SELECT .* FROM ablation", word)
    }
    told = Results(ablated.lake).sql(query.replace("study = 'mine'", "study = 'tiny'")).collect()
    assert told["variant"].to_list() == ALL
    assert told["min(pearson)"].to_list() == [rows.filter(variant=name)["pearson"].min() for name in ALL]


@pytest.fixture
def progress():
    return SimpleNamespace(total=0, advance=lambda _: None)


def test_chosen_ranks_are_compared_as_the_study_chooses_them(ablated, reading, progress):
    """An agreement of a lower bar keeps fewer components, and agrees less."""
    strict, loose = (
        scoring.Scoring(reading, with_agreement(ablated, bar)).scored(Variant(rank="auto"), progress).scores_QD
        for bar in (0.999, 0.9)
    )
    full_QD = scoring.Scoring(reading, ablated.study).scored(Variant(), progress).scores_QD
    worst = [
        min(np.corrcoef(found_D, full_D)[0, 1] for found_D, full_D in zip(scores_QD, full_QD, strict=True))
        for scores_QD in (loose, strict)
    ]
    assert worst[0] < worst[1] < 1 and worst[1] > 0.99


def with_agreement(ablated: CopiedStudy, agreement: float):
    options = ablated.study.spec.options.model_copy(update={"rank": "auto", "agreement": agreement})
    changed = replace(ablated.study, spec=ablated.study.spec.model_copy(update={"options": options}))
    assert "rank auto" in [variant.name for variant in variants_of(changed)]
    return changed


def test_queries_whose_gradients_do_not_fit_are_scored_in_groups(ablated, reading, progress, monkeypatch):
    one_pass = scoring.Scoring(reading, ablated.study).scored(Variant(), progress)
    assert progress.total == 0
    monkeypatch.setattr(scoring, "GRADIENT_BYTES", 1)
    grouped = scoring.Scoring(reading, ablated.study).scored(Variant(), progress)
    assert progress.total == 2 * 40  # two passes more than were planned, of three queries
    np.testing.assert_allclose(
        grouped.scores_QD, one_pass.scores_QD, rtol=1e-4, atol=1e-5 * np.abs(one_pass.scores_QD).max()
    )


def test_its_cost_is_what_is_counted_while_it_works(ablated, reading, progress, monkeypatch):
    """Around the scoring itself, whose documents and queries are of different lengths and not of their mean."""
    opened = scoring.open_traced_models

    def with_attention_that_is_counted(*arguments, **options):
        model, asked, modules = opened(*arguments, **options)
        model.config._attn_implementation = "eager"
        return model, asked, modules

    monkeypatch.setattr(scoring, "open_traced_models", with_attention_that_is_counted)
    work = scoring.Scoring(reading, ablated.study)
    found = counted(lambda: [work.scored(variant, progress) for variant in variants_of(ablated.study)])
    lengths, asked = [len(each) for each in work.documents], work.queries
    setting = cost_setting(
        ablated.study,
        documents=60,
        tokens=round(np.mean(lengths)),
        queries=len(asked),
        query_tokens=round(np.mean([len(each) for each in asked])),
        new_tokens=round(np.mean([len(each) - each.loss_start for each in asked])),
        logits_at_once=2**20,
    )
    skeleton = study_skeleton(ablated.study)
    costs = CostModel(architecture_of(skeleton, select_modules(skeleton, "mlp")), setting)
    cost = study_ablation_cost(ablated.study, costs, seconds=lambda _: 1.0)
    assert cost.total == pytest.approx(found, rel=0.15)
    assert {"bfloat16", "float32", "host decomposition"} <= cost.operations.keys()
    once = study_ablation_cost(ablated.study, costs, seconds=lambda _: 60.0)
    assert cost.total / 3 < once.total < cost.total and once.memory == cost.memory


@pytest.mark.slow
def test_what_did_not_change_is_kept_and_what_did_is_made_anew(ablated, tmp_path, monkeypatch):
    monkeypatch.setenv("DAGSTER_HOME", str(tmp_path / "copy/home/dagster"))
    copied = copy_of(ablated.directory / "tiny.yaml", tmp_path)
    tables = ("ablation_sample", "ablation", "influence", "report")

    def marks() -> list[str]:
        return [copied.table(f"study/tiny/{name}")["fingerprint"][0] for name in tables]

    def versions() -> list[int]:
        return [
            len(list((copied.directory / f"home/lake/study/tiny/{name}/_delta_log").glob("*.json"))) for name in tables
        ]

    with copied.instance:
        first, held = marks(), versions()
        run(copied)
        assert marks() == first and versions() == held
        copied = with_options(copied, ablation=ABLATION | {"ranks": [2]})
        run(copied)
        second = marks()
        assert [one == other for one, other in zip(first, second, strict=True)] == [True, False, True, False]
        assert "rank 2" in copied.table("study/tiny/ablation")["variant"].unique()
        copied.rewrite(3, [{"id": "new", "text": "the cat sits on mat the dog runs", "source": "prose"}])
        run(copied)  # one more shard: pinned, as a fit is
        assert marks()[:2] == second[:2] and copied.table("corpus/tiny/shards").height == 4
        copied = with_options(copied, ablation=ABLATION | {"documents": 10_000})
        run(copied)
        assert copied.table("study/tiny/ablation_sample").height == copied.table("corpus/tiny/documents").height
        assert marks()[0] != second[0] and copied.table("study/tiny/ablation")["listed"][0] < 50


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"ablation": {"ranks": [8, 64]}}, "options.ablation.ranks: 64 is above 32, the smaller dimension of"),
        ({"ablation": {"ranks": [8], "blocks": [3]}}, "options.ablation.blocks: 3, and gpt_neox.layers.0"),
        ({"ablation": {"ranks": [8], "documents": 3}}, "options.ablation.documents: should be at least 12, not 3"),
        ({"ablation": {"ranks": [8], "precisions": ["int8"]}}, "should be 'bfloat16' or 'float16', not 'int8'"),
        ({"ablation": {"rank": [8]}}, "options.ablation.rank: is not a known field; did you mean ranks?"),
        ({"ablation": True}, "options.ablation: should be fields of its own, not true"),
        ({"ablation": {"ranks": [8]}, "methods": ["dot"]}, "ablation compares scores by ekfac"),
    ],
)
def test_bad_settings_are_refused_before_work_starts(tmp_path, monkeypatch, options, said):
    monkeypatch.setenv("HEADWATER_HOME", str(tmp_path / "home"))
    result = CliRunner().invoke(app, ["run", str(write_study(tmp_path, options=options))])
    assert result.exit_code == 1 and said in result.stderr and "Traceback" not in result.stderr
    assert not (tmp_path / "home/lake/corpus").exists()


@pytest.mark.slow
def test_bfloat16_is_compared_with_float32_without_asking(finished, tmp_path, monkeypatch):
    """And no longer where the study says so; the check follows its option though the rows are kept."""
    monkeypatch.setenv("DAGSTER_HOME", str(tmp_path / "copy/home/dagster"))
    copied = with_options(copy_of(finished.study, tmp_path), products="bfloat16")
    key = dg.AssetCheckKey(dg.AssetKey(["study", "tiny", "ablation"]), "own_setting_agrees")
    with copied.instance:
        run(copied)
        rows = copied.table("study/tiny/ablation").sort("position")
        assert rows["variant"].unique(maintain_order=True).to_list() == [
            "full rank",
            "rank 8",
            "products in bfloat16",
            "rank 8, products in bfloat16",
            "model in bfloat16",
        ]
        assert rows.filter("is_study")["variant"].unique().to_list() == ["rank 8, products in bfloat16"]
        assert rows["documents"].unique().to_list() == [64]
        page = copied.table("study/tiny/report")["html"][0]
        assert "Of that, products in bfloat16 alone: Pearson 0.99" in page
        assert "Agreement with full rank in float32" in page
        copied = with_options(copied, min_agreement=1.0)
        run(copied)
        record = copied.instance.event_log_storage.get_asset_check_execution_history(key, 1)
        flagged = record[0].event.dagster_event.event_specific_data
        assert (
            not flagged.passed and not flagged.blocking and "below 1.0 (options.min_agreement)" in flagged.description
        )
        assert flagged.metadata["setting"].value == "rank 8, products in bfloat16"
        without = with_options(copied, ablation=False)
        assert not {"study/tiny/ablation", "study/tiny/ablation_sample"} & {
            table.path for table in study_tables(without.study)
        }
        run(without)
        assert 'id="ablation"' not in without.table("study/tiny/report")["html"][0]


def test_no_study_in_float32_has_an_ablation_that_does_not_ask(finished):
    assert not (finished.home / "lake/study/tiny/ablation").exists()
    assert 'id="ablation"' not in finished.table("study/tiny/report")["html"][0]
