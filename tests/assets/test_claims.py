"""The rules of claims, on evidence written by hand."""

from __future__ import annotations

import math

import polars as pl
import pyarrow as pa
import pytest

from assets.findings.claims import claims_table, decided
from assets.findings.evidence import evidence_table

NAN = math.nan
POSITIVE = "positive influence per nat, top 1 %"


def row(analysis: str, statistic: str, group: str, contrast: str | None = None, **numbers) -> dict:
    told = {"analysis": analysis, "statistic": statistic, "group": group, "contrast": contrast, "method": "ekfac"}
    rest = {"estimate": 0.5, "low": 0.4, "high": 0.6, "p_value": NAN, "p_adjusted": NAN, "queries": 20, "chance": NAN}
    return told | rest | {"fingerprint": "f" * 16} | numbers


def frame(*rows: dict) -> pl.DataFrame:
    return pl.from_arrow(pa.Table.from_pylist(list(rows), schema=evidence_table("s").schema))


def the(claim: str, *rows: dict) -> dict:
    (found,) = [each for each in decided(frame(*rows)) if each["claim"] == claim]
    return found


def mean(group: str, low: float, chance: float, **numbers) -> dict:
    statistic = numbers.pop("statistic", "answer in the top 50")
    return row("answers", statistic, group, low=low, chance=chance, **numbers)


def contrast(statistic: str, estimate: float, p: float, control: str = "", half: float = 0.1) -> dict:
    analysis = "power_law" if statistic == "slope" else "magnitude"
    ends = {"estimate": estimate, "low": estimate - half, "high": estimate + half}
    return row(analysis, statistic, f"factual{control}", f"reasoning{control}", **ends, p_value=p / 2, p_adjusted=p)


@pytest.mark.parametrize(
    ("low", "chance", "holds"),
    [(0.4, 0.3, True), (0.3, 0.3, False), (0.2, 0.3, False), (NAN, 0.3, False), (0.4, NAN, False)],
)
def test_a_mean_is_above_chance_where_its_interval_is(low, chance, holds):
    claim = the("answers of factual queries, top 50", mean("factual", low, chance))
    assert claim["holds"] is holds
    assert (claim["in_controls"], claim["task_specific"]) == (None, None)
    assert math.isnan(claim["p_adjusted"])
    assert math.isnan(claim["control_low"])


@pytest.mark.parametrize(
    ("low", "control_low", "in_controls", "specific"),
    [
        (0.4, 0.2, False, True),
        (0.4, 0.4, True, False),
        (0.2, 0.4, True, False),
        (0.2, 0.2, False, False),
        (0.4, NAN, False, True),
    ],
)
def test_what_controls_have_too_is_not_of_the_task(low, control_low, in_controls, specific):
    control = mean("factual control", control_low, 0.3, estimate=0.25, high=0.7)
    claim = the("answers of factual queries, top 50", mean("factual", low, 0.3), control)
    assert (claim["in_controls"], claim["task_specific"]) == (in_controls, specific)
    assert (claim["control_estimate"], claim["control_high"]) == (0.25, 0.7)


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
    assert claim["task_specific"] is (not in_controls)


def test_tasks_are_compared_with_tasks_of_controls():
    def told(kind, p):
        ends = {"estimate": 0.3, "low": 0.2, "high": 0.4}
        names = (f"{kind}, same task", f"{kind}, other task")
        return row("correlation", "mean correlation", *names, **ends, p_adjusted=p)

    group = row("correlation", "mean correlation", "reasoning", chance=0.0)
    claim = the("same task, reasoning", group, told("reasoning", 0.01), told("reasoning control", 0.5))
    assert (claim["holds"], claim["in_controls"], claim["task_specific"]) == (True, False, True)
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
