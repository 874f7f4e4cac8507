"""The rules of claims, on evidence written by hand."""

from __future__ import annotations

import math

import numpy as np
import polars as pl
import pyarrow as pa
import pytest

from assets.findings.claims import claims_table, decided
from assets.findings.comparing import Comparing
from assets.findings.evidence import evidence_rows, evidence_table
from assets.findings.groups import grouped
from assets.specs.findings import FindingsSpec

NAN = math.nan
POSITIVE = "positive influence per nat, top 1 %"


def row(analysis: str, statistic: str, group: str, contrast: str | None = None, **numbers) -> dict:
    told = {"analysis": analysis, "statistic": statistic, "group": group, "contrast": contrast, "method": "ekfac"}
    rest = {"estimate": 0.5, "low": 0.4, "high": 0.6, "p_value": 0.001, "p_adjusted": 0.01, "smallest_p": 1e-3}
    rest |= {"queries": 20, "chance": NAN}
    return told | rest | {"fingerprint": "f" * 16} | numbers


def frame(*rows: dict) -> pl.DataFrame:
    return pl.from_arrow(pa.Table.from_pylist(list(rows), schema=evidence_table("s").schema))


def the(claim: str, *rows: dict) -> dict:
    (found,) = [each for each in decided(frame(*rows)) if each["claim"] == claim]
    return found


def mean(group: str, low: float, chance: float, **numbers) -> dict:
    statistic = numbers.pop("statistic", "answer in the top 50")
    numbers = {"estimate": low + 0.1, "high": low + 0.2} | numbers
    return row("answers", statistic, group, low=low, chance=chance, **numbers)


def contrast(statistic: str, estimate: float, p: float, control: str = "", half: float = 0.1) -> dict:
    analysis = "power_law" if statistic == "slope" else "magnitude"
    ends = {"estimate": estimate, "low": estimate - half, "high": estimate + half}
    return row(analysis, statistic, f"factual{control}", f"reasoning{control}", **ends, p_value=p / 2, p_adjusted=p)


@pytest.mark.parametrize(
    ("low", "chance", "p", "verdict"),
    [
        (0.4, 0.3, 0.01, "holds, no controls"),
        (0.4, 0.3, 0.05, "not found"),
        (0.3, 0.3, 0.01, "not found"),
        (0.2, 0.3, 0.01, "not found"),
        (NAN, 0.3, 0.01, "too few queries"),
        (0.4, 0.3, NAN, "too few queries"),
        (0.4, NAN, 0.01, "too few queries"),
    ],
)
def test_a_mean_is_above_chance_where_its_interval_and_its_p_say_so(low, chance, p, verdict):
    claim = the("answers of factual queries, top 50", mean("factual", low, chance, p_adjusted=p))
    assert (claim["verdict"], claim["holds"]) == (verdict, verdict.startswith("holds"))
    assert (claim["in_controls"], claim["more_than_controls"]) == (None, None)
    assert claim["task_specific"] is (False if verdict == "not found" else None)
    assert claim["control_queries"] == 0
    assert math.isnan(claim["control_low"])


@pytest.mark.parametrize(
    ("low", "control", "in_controls", "specific", "verdict"),
    [
        (0.6, {"low": 0.2}, False, True, "holds, not in controls"),
        (0.6, {"low": 0.4}, True, False, "holds, in controls too"),
        (0.2, {"low": 0.4}, True, False, "not found"),
        (0.2, {"low": 0.2}, False, False, "not found"),
        (0.6, {"low": 0.4, "p_adjusted": 0.2}, False, True, "holds, not in controls"),
        # What cannot be decided is not absent.
        (0.6, {"low": NAN}, None, None, "holds, too few controls"),
        (0.6, {"low": 0.2, "p_adjusted": NAN}, None, None, "holds, too few controls"),
        (0.6, {"low": 0.2, "p_adjusted": 0.2, "smallest_p": 0.1}, None, None, "holds, too few controls"),
        # Shown here and not there is no difference between the two.
        (0.4, {"low": 0.29}, False, None, "holds, controls may too"),
    ],
)
def test_what_controls_have_too_is_not_of_the_task(low, control, in_controls, specific, verdict):
    told = mean("factual control", control.pop("low"), 0.3, queries=7, **control)
    claim = the("answers of factual queries, top 50", mean("factual", low, 0.3), told)
    assert (claim["in_controls"], claim["task_specific"], claim["verdict"]) == (in_controls, specific, verdict)
    numbers = [claim[f"control_{name}"] for name in ("estimate", "high", "p_adjusted", "queries")]
    assert str(numbers) == str([told[name] for name in ("estimate", "high", "p_adjusted", "queries")])


@pytest.mark.parametrize(
    ("numbers", "more", "verdict"),
    [
        ({"p_adjusted": 0.01}, True, "holds, not in controls"),
        ({"p_adjusted": 0.06}, False, "holds, controls may too"),
        # A test that could not have shown it leaves it to the interval of the difference.
        ({"p_adjusted": 0.3, "smallest_p": 0.1}, True, "holds, not in controls"),
        ({"p_adjusted": NAN, "smallest_p": NAN}, True, "holds, not in controls"),
    ],
)
def test_what_is_of_the_task_needs_the_contrast_with_its_controls_where_that_is_tested(numbers, more, verdict):
    rows = [mean("factual", 0.6, 0.3), mean("factual control", 0.2, 0.3)]
    contrast = row("answers", "answer in the top 50", "factual", "factual control", **numbers)
    claim = the("answers of factual queries, top 50", *rows, contrast)
    assert (claim["in_controls"], claim["more_than_controls"], claim["verdict"]) == (False, more, verdict)
    assert claim["task_specific"] is (more or None)


def test_effects_are_compared_with_those_of_controls_beyond_what_chance_gives_each():
    rows = [mean("factual", 0.6, 0.3), mean("factual control", 0.5, 0.1, p_adjusted=0.06)]
    assert the("answers of factual queries, top 50", *rows)["more_than_controls"] is False
    rows = [mean("factual", 0.6, 0.1), mean("factual control", 0.5, 0.5, p_adjusted=0.06)]
    assert the("answers of factual queries, top 50", *rows)["more_than_controls"] is True


def asked(**groups: int) -> pl.DataFrame:
    """So many queries of each kind, or, of `control_of_…`, controls of one; a task for each kind."""
    rows = [
        (f"{name} {n:02d}", name.removeprefix("control_of_"), "control" if "control" in name else name, None, 1.0)
        for name, many in groups.items()
        for n in range(many)
    ]
    names = {"query_id": pl.String, "task": pl.String, "kind": pl.String, "is_right": pl.Boolean, "nats": pl.Float64}
    return grouped(pl.DataFrame(rows, schema=names, orient="row"))


def claims_of(analysis: str, found: list) -> list[dict]:
    return decided(pl.from_arrow(evidence_rows(analysis, found, "f" * 16)))


def test_three_controls_of_each_kind_are_too_few_for_a_contrast():
    """Of 20 ways to choose three of six the most extreme, two-sided, are two: p is 0.1 at best. The kinds differ, and
    their controls do as much."""
    queries = asked(factual=8, reasoning=8, control_of_factual=3, control_of_reasoning=3)
    values = queries.select("query_id", value=10.0 * (pl.col("task") == "factual") + pl.row_index() % 7)
    found = Comparing(queries, FindingsSpec(resamples=1000)).found("ekfac", POSITIVE, values)
    (claim,) = [each for each in claims_of("magnitude", found) if each["claim"] == "magnitude"]
    assert claim["holds"] and claim["control_estimate"] > 5
    assert (claim["in_controls"], claim["task_specific"]) == (None, None)
    assert claim["verdict"] == "holds, too few controls"


def test_chance_makes_few_claims_whatever_the_sources_and_depths():
    """Tops drawn at random: 10 sources × 2 kinds × 2 cut-offs. By intervals alone, two of three studies had a claim."""
    draw, queries, options = np.random.default_rng(3), asked(factual=20, reasoning=20), FindingsSpec(resamples=200)
    documents, studies, by_interval, by_claim = 2000 * np.arange(1, 11), 40, 0, 0
    comparing = Comparing(queries, options)
    for _ in range(studies):
        found = []
        for cut in (50, 500):
            tops = draw.multivariate_hypergeometric(documents, cut, size=len(queries))
            for source, of_source in enumerate((tops / cut / (documents / documents.sum())).T):
                values = pl.DataFrame({"query_id": queries["query_id"], "value": of_source})
                statistic = f"representation of source {source}, top {cut}"
                found += comparing.found("ekfac", statistic, values, chance=1.0, tested=False, against_chance=True)
        claims = claims_of("sources", found)
        assert len(claims) == 40
        by_interval += any(each["low"] > 1 for each in claims)
        by_claim += any(each["holds"] for each in claims)
    assert by_interval / studies > 0.4
    assert by_claim / studies <= 0.07


def test_a_source_that_is_twice_as_frequent_is_still_found():
    draw, queries = np.random.default_rng(4), asked(factual=20, reasoning=20)
    found, comparing = [], Comparing(queries, FindingsSpec(resamples=500))
    for source in range(20):  # the first stands twice as often at the top of reasoning queries
        twice = (queries["kind"] == "reasoning").to_numpy() & (source == 0)
        values = pl.DataFrame({"query_id": queries["query_id"], "value": draw.binomial(50, 0.1 * (1 + twice)) / 5})
        statistic = f"representation of source {source:02d}, top 50"
        found += comparing.found("ekfac", statistic, values, chance=1.0, tested=False, against_chance=True)
    assert [each["claim"] for each in claims_of("sources", found) if each["holds"]] == ["source 00, top 50, reasoning"]


def test_tests_are_corrected_within_their_family_alone():
    """Two sources at one cut-off: contrasts, means of kinds and means of controls."""
    draw, queries = np.random.default_rng(5), asked(factual=9, reasoning=9, control_of_factual=6)
    comparing, found = Comparing(queries, FindingsSpec(resamples=300)), []
    for source in ("a", "b"):
        values = pl.DataFrame({"query_id": queries["query_id"], "value": draw.normal(1.3, 0.5, len(queries))})
        found += comparing.found("ekfac", f"representation of {source}, top 5", values, chance=1.0, against_chance=True)
    rows = pl.from_arrow(evidence_rows("sources", found, "f" * 16))
    tested = rows.filter(pl.col("p_value").is_not_nan())
    sizes = {"contrasts": 4, "kinds": 4, "controls": 2}
    for name, part in (
        ("contrasts", tested.filter(pl.col("contrast").is_not_null())),
        ("kinds", tested.filter(pl.col("contrast").is_null(), ~pl.col("group").str.ends_with("control"))),
        ("controls", tested.filter(pl.col("contrast").is_null(), pl.col("group").str.ends_with("control"))),
    ):
        assert len(part) == sizes[name]
        first = part.sort("p_value").row(0, named=True)
        assert first["p_adjusted"] == pytest.approx(min(1.0, first["p_value"] * sizes[name]))


def test_a_source_may_be_called_anything():
    names = ("papers, by Judge", "x, top 5", "what, bottom 3", "a\nb")
    rows = [row("sources", f"representation of {each}, top 50", "factual", low=1.5, chance=1.0) for each in names]
    rows += [row("sources", f"representation of {each}, bottom 50", "factual", low=1.5, chance=1.0) for each in names]
    assert {each["claim"] for each in decided(frame(*rows))} == {f"{each}, top 50, factual" for each in names}


def test_influence_is_compared_at_the_share_that_there_is():
    other = "positive influence per nat, top 0.5 %"
    rows = [contrast(statistic, 0.3, 0.01) for statistic in (other, "positive influence per nat, top 10 %")]
    claim = the("magnitude", *rows, contrast(f"volatility of {other}", 0.3, 0.01))
    assert claim["statistic"] == other
    assert claim["sentence"].startswith("The top 0.5 % of documents")
    assert the("volatility", *rows, contrast(f"volatility of {other}", 0.3, 0.01))["holds"]


@pytest.mark.parametrize(
    ("estimate", "p", "holds"), [(0.3, 0.01, True), (0.3, 0.05, False), (0.3, NAN, False), (-0.3, 0.01, False)]
)
def test_a_contrast_needs_its_sign_and_its_corrected_p(estimate, p, holds):
    claim = the("magnitude", contrast(POSITIVE, estimate, p))
    assert claim["holds"] is holds
    assert (claim["group"], claim["contrast"], claim["queries"]) == ("factual", "reasoning", 20)


def test_a_contrast_whose_interval_holds_zero_does_not_hold_whatever_its_p():
    assert the("magnitude", contrast(POSITIVE, 0.3, 0.001, half=0.2))["holds"]
    assert not the("magnitude", contrast(POSITIVE, 0.3, 0.001, half=0.4))["holds"]
    assert not the("magnitude", contrast(POSITIVE, 0.3, 0.001, half=NAN))["holds"]


@pytest.mark.parametrize(("estimate", "holds"), [(-0.3, True), (0.3, False), (-0.05, False)])
def test_steeper_is_a_lower_slope(estimate, holds):
    assert the("power law", contrast("slope", estimate, 0.01))["holds"] is holds


@pytest.mark.parametrize(("estimate", "p", "in_controls"), [(0.3, 0.01, True), (0.3, 0.2, False), (-0.3, 0.01, False)])
def test_the_same_rule_is_put_to_the_controls_of_a_contrast(estimate, p, in_controls):
    claim = the("magnitude", contrast(POSITIVE, 0.3, 0.01), contrast(POSITIVE, estimate, p, " control"))
    assert claim["in_controls"] is in_controls
    # Smaller for the controls by as much as both intervals are wide only where it points the other way.
    assert claim["task_specific"] is (False if in_controls else True if estimate < 0 else None)


def test_tasks_are_compared_with_tasks_of_controls():
    def told(kind, p):
        ends = {"estimate": 0.3, "low": 0.2, "high": 0.4}
        names = (f"{kind}, same task", f"{kind}, other task")
        return row("correlation", "mean correlation", *names, **ends, p_adjusted=p)

    group = row("correlation", "mean correlation", "reasoning", chance=0.0)
    claim = the("same task, reasoning", group, told("reasoning", 0.01), told("reasoning control", 0.5))
    assert (claim["holds"], claim["in_controls"], claim["task_specific"]) == (True, False, None)
    names = {each["claim"] for each in decided(frame(group, told("factual control", 0.01)))}
    assert names == set()


@pytest.mark.parametrize(("estimate", "holds"), [(-0.3, True), (0.3, False)])
def test_reasoning_shares_documents_where_factual_queries_correlate_less(estimate, holds):
    ends = {"estimate": estimate, "low": estimate - 0.1, "high": estimate + 0.1, "p_adjusted": 0.01}
    groups = [row("correlation", "mean correlation", kind, chance=0.0) for kind in ("factual", "reasoning")]
    contrast = row("correlation", "mean correlation", "factual", "reasoning", **ends)
    assert the("shared documents", *groups, contrast)["holds"] == holds


def test_claims_are_made_for_every_method_and_depth_that_there_is():
    rows = [
        mean("factual", 0.4, 0.1),
        mean("factual", 0.4, 0.1, statistic="answer in the top 500"),
        mean("reasoning", 0.05, 0.1, method="dot"),
        row("sources", "representation of code, top 50", "reasoning", low=3.0, chance=1.0),
        row("sources", "representation of code, bottom 50", "reasoning", low=3.0, chance=1.0),
        row("kinds", "share of procedural documents, top 100", "reasoning", low=0.3, chance=0.1),
    ]
    claims = decided(frame(*rows))
    assert [(each["method"], each["claim"], each["holds"]) for each in claims] == [
        ("dot", "answers of reasoning queries, top 50", False),
        ("ekfac", "answers of factual queries, top 50", True),
        ("ekfac", "answers of factual queries, top 500", True),
        ("ekfac", "code, top 50, reasoning", True),
        ("ekfac", "procedural documents", True),
    ]
    stamped = [claim | {"fingerprint": "f" * 16} for claim in claims]
    assert pa.Table.from_pylist(stamped, schema=claims_table("s").schema).num_rows == 5


def test_evidence_about_no_known_kind_decides_nothing():
    assert decided(frame(mean("no kind", 0.4, 0.1), mean("control", 0.4, 0.1))) == []
    assert decided(frame()) == []
