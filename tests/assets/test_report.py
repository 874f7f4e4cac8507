"""The report, materialized from real tables, as a browser would read it."""

from __future__ import annotations

import math
import re
from html.parser import HTMLParser

import altair as alt
import dagster as dg
import polars as pl
import pytest
from mlflow import MlflowClient

from assets.figures.drawing import Figure, drawn
from assets.findings.report import report as module
from assets.findings.report import vectors, verdicts
from assets.findings.report.evidence_tables import evidence_tables
from assets.findings.report.numerals import interval, number, p_value
from assets.findings.report.passages import chosen_queries, passage, window
from assets.findings.report.report import report_asset, report_table
from assets.findings.report.subjects import SUBJECTS
from assets.findings.report.visible import visible
from assets.lake.lake import Lake
from assets.study.rankings import rankings_table
from assets.tracking.tracking import Tracking
from tests.assets import report_study
from tests.assets.report_study import ANALYSES, HOSTILE, ODD, fill, findings, put, study

LARGEST_PAGE = 2_000_000
VOID = {"meta", "img", "br", "hr", "link", "input"}


class Reader(HTMLParser):
    """What a browser makes of the page: elements, their attributes, and the words between them."""

    def __init__(self, html: str) -> None:
        super().__init__(convert_charrefs=True)
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.words: list[str] = []
        self.open: list[str] = []
        self.feed(html)
        self.close()

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        assert self.open and self.open[-1] == tag, f"</{tag}> closes <{self.open[-1:]}>"
        self.open.pop()

    def handle_data(self, data):
        if not self.open or self.open[-1] != "style":
            self.words.append(data)

    @property
    def text(self) -> str:
        return " ".join("".join(self.words).split())

    def tags(self) -> set[str]:
        return {tag for tag, _ in self.elements}

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.elements if name == tag]


def stand_in(analysis: str, rows: pl.DataFrame, evidence: pl.DataFrame, name: str = "") -> Figure:
    """A drawing in the house's style of what the analysis would draw, with ids that those of others have too."""
    points = evidence.filter(pl.col("contrast").is_null()).select("group", "estimate", "statistic")
    points = points.with_columns(group=pl.lit(name) + pl.col("group"))
    chart = alt.Chart(points).mark_circle(clip=True, size=50)
    return drawn(f"{analysis} of {rows.height} rows", chart.encode(x="estimate:Q", y="group:N", tooltip="statistic:N"))


@pytest.fixture
def tracking(tmp_path) -> Tracking:
    return Tracking(tracking_uri="http://127.0.0.1:9")  # nobody is there


@pytest.fixture(autouse=True)
def drawings(monkeypatch):
    monkeypatch.setattr(module, "drawn", stand_in)


def nothing(_: object) -> None:
    """Of the findings is outdated."""


def made(lake: Lake, tracking: Tracking, of=None, tables=None) -> str:
    of = of or study()
    asset = report_asset(of, findings(of) if tables is None else tables, nothing)
    assert dg.materialize([asset], resources={"lake": lake, "tracking": tracking}).success
    row = lake.scan(report_table(of.name)).collect().row(0, named=True)
    assert row["title"].startswith(f"Study {of.name}") and len(row["fingerprint"]) == 16
    return row["html"]


@pytest.fixture
def lake(tmp_path) -> Lake:
    return Lake(uri=str(tmp_path / "lake"))


def test_everything_is_on_the_page_in_order(lake, tracking):
    fill(lake, study())
    reader = Reader(made(lake, tracking))
    ids = [attributes["id"] for attributes in reader.all("section")]
    assert ids == ["claims", *ANALYSES, "documents", "settings", "versions", "limitations"]
    links = [attributes["href"] for attributes in reader.all("a")]
    assert links == ["#claims", *(f"#{each}" for each in ids)]
    for words in (
        "What taught small-llama: study example",
        "Model small-llama on corpus invented-world",
        "12,000",
        "24 (6 factual, 6 reasoning, 6 factual control, 6 reasoning control)",
        "Holds, not in controls Documents with the answer of factual queries are in the top 500 more often than by "
        "chance.",
        "Estimate 48 % (95 % interval 31 to 63 %), chance 10 %, adjusted p < 0.001, n = 40 queries; controls 8.0 % "
        "(2.0 to 20 %): the controls do not show it, and their effect is smaller; holds at 1 of 2 depths (500).",
        "Not found Influence falls off more steeply for factual queries. Difference 0.480 (95 % interval 0.310 to "
        "0.630), adjusted p = 0.30, n = 40 queries; controls",
        "Holds, in controls too Queries of one task",
        "Holds, controls may too Procedural documents are over-represented.",
        "the controls do not show it, but neither is their effect shown to be smaller",
        "Holds, no controls Source 5 is over-represented.",
        "tasks are taken as fixed",
        "too few to tell",
        "EK-FAC influence, Gradient dot product, BM25",
        "factual less reasoning",
        "study/example/rankings",
        "0123456789abcdef",
        "corpus/invented-world/documents",
        "abababababababab",
        "corpus.max_tokens",
        "multiple of each module's mean(Λ)",
        "correlate with exact scores at 0.9",
        "10,000 resamples",
        "Groups of fewer than 10 queries (factual, factual control, reasoning, reasoning control)",
    ):
        assert words in reader.text, words
    for subject in SUBJECTS:
        assert (subject.asked in reader.text) == (not subject.is_optional)
    assert "Source 3 is over-represented" not in reader.text  # of many, four are stated, and all are in the table
    assert "sources: representation of source 3, top 50" in reader.text
    assert len(reader.all("svg")) == len(ANALYSES) + 1 == len(reader.all("figure"))


def test_the_date_is_that_of_the_data_and_the_page_is_the_same_each_time(lake, tracking, monkeypatch):
    fill(lake, study())
    first = made(lake, tracking)
    monkeypatch.setattr("time.time", lambda: 4e9)
    assert made(lake, tracking) == first
    written = max(entry["timestamp"] for entry in lake.history(rankings_table("example")))
    year = 1970 + int(written / 1000 / 86400 / 365.25)
    assert re.search(rf"Data as of \d+ \w+ {year}\.", Reader(first).text)


def test_nothing_comes_from_elsewhere(lake, tracking):
    fill(lake, study())
    html = made(lake, tracking)
    reader = Reader(html)
    assert not reader.tags() & {"script", "link", "iframe", "object", "embed", "base", "form", "audio", "video"}
    for tag, attributes in reader.elements:
        for name, value in attributes.items():
            assert not name.startswith("on"), (tag, name)
            if name in ("src", "href", "xlink:href", "srcset", "poster", "action", "data"):
                assert value.startswith(("#", "data:image/png;base64,")), (tag, name, value)
    assert all(address.startswith("#") for address in re.findall(r"url\(\s*['\"]?([^)]*)", html))
    assert "@import" not in html and "http:" not in html and "https:" not in html
    policy = next(each["content"] for each in reader.all("meta") if "http-equiv" in each)
    assert policy.startswith("default-src 'none'") and "script" not in policy


def test_ids_are_unique_though_drawings_share_theirs(lake, tracking):
    fill(lake, study())
    html = made(lake, tracking)
    ids = [attributes["id"] for _, attributes in Reader(html).elements if "id" in attributes]
    assert len(ids) == len(set(ids))
    used = re.findall(r"url\(#([^)]+)\)", html)
    assert used and set(used) <= set(ids)


def test_hostile_text_is_shown_and_never_obeyed(lake, tracking, monkeypatch):
    nasty = HOSTILE + ODD.replace("\ud83d", "")  # Arrow stores no half of a pair
    fill(lake, study(), per_group=2, hostile=nasty)
    plain = Lake(uri=f"{lake.uri}-plain")
    fill(plain, study(), per_group=2)
    expected = Reader(made(plain, tracking))
    monkeypatch.setattr(module, "drawn", lambda *data: stand_in(*data, name=nasty))
    html = made(lake, tracking)
    reader = Reader(html)
    assert not reader.tags() - expected.tags() and not reader.open
    assert not any(name.startswith("on") for _, attributes in reader.elements for name in attributes)
    assert len(reader.all("section")) == len(expected.all("section")) and len(reader.all("style")) == 1
    assert reader.text.count("<script>alert(1)</script>") > 20  # prompts, documents, sources, ids, claims, figures
    assert "\u202e" not in html and "\x00" not in html and "⟨U+202E⟩right to left⟨U+202C⟩ ␀" in reader.text
    assert "名前 שלום" in reader.text


def test_a_drawing_is_reduced_to_shapes_and_words():
    svg = (
        '<svg xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink" width="300" height="100">'
        '<defs><clipPath id="a"><rect width="1.23456" height="2"/></clipPath></defs><script>alert(1)</script>'
        '<g clip-path="url(#a)" onclick="x()" aria-label="long"><text>1 &lt; 2 &amp; &lt;/svg&gt;</text></g>'
        '<a xlink:href="http://evil"><rect/></a><foreignObject/><image xlink:href="http://evil/x.png"/>'
        '<rect fill="url(http://evil)" style="fill: url( \'//evil\' )"/><use xlink:href="#a"/></svg>'
    )
    found = vectors.drawing(Figure("title", b"png", svg), "name")
    assert found.width == 300
    assert found.svg == (
        '<svg viewBox="0 0 300 100" aria-hidden="true"><defs><clipPath id="name-0"><rect width="1.23" height="2" />'
        '</clipPath></defs><g clip-path="url(#name-0)"><text>1 &lt; 2 &amp; &lt;/svg&gt;</text></g><image /><rect />'
        '<use href="#name-0" /></svg>'
    )


def test_a_large_drawing_comes_as_a_picture(monkeypatch):
    monkeypatch.setattr(vectors, "LARGEST_SVG", 50)
    svg = '<svg xmlns="http://www.w3.org/2000/svg" width="300" height="100"><text>some long words</text></svg>'
    found = vectors.drawing(Figure("title", b"png", svg), "name")
    assert found.svg is None and found.picture == "data:image/png;base64,cG5n"


@pytest.mark.parametrize("kept", [[], ["claims"], ["answers", "sources"]])
def test_what_is_missing_is_left_out_with_a_sentence(lake, tracking, kept):
    """Tables that are not in the lake, and analyses that the study does not have."""
    of = study()
    fill(lake, of, per_group=2)
    tables = [table for table in findings(of) if table.key[-1] in kept]
    reader = Reader(made(lake, tracking, of, tables))
    assert [each["id"] for each in reader.all("section")] == [
        "claims",
        *(name for name in ANALYSES if name in kept),
        "documents",
        "settings",
        "versions",
        "limitations",
    ]
    assert reader.text.count("this study does not have that analysis") == 7 - len(kept)


def test_a_study_without_findings_has_a_page(lake, tracking):
    """Only completions are in the lake: everything else says what to materialize."""
    of = study()
    rows = report_study._completions(report_study.queries(2))
    put(lake, report_study.completions_table(of.name), rows)
    reader = Reader(made(lake, tracking, of))
    assert reader.text.count("is not in the lake; materialize it, and then this report") == 8
    assert "The claims are left out: the table study/example/claims is not in the lake" in reader.text


def test_a_figure_that_cannot_be_drawn_is_left_out(lake, tracking, monkeypatch):
    def failing(analysis, rows, evidence):
        if analysis == "kinds":
            raise ValueError("<b>no</b> ink")
        return stand_in(analysis, rows, evidence)

    monkeypatch.setattr(module, "drawn", failing)
    fill(lake, study(), per_group=2)
    reader = Reader(made(lake, tracking))
    assert "The figure could not be drawn (ValueError: <b>no</b> ink)." in reader.text
    assert len(reader.all("figure")) == 6 and "share of procedural documents, top 100" in reader.text


def test_odd_values_are_shown_as_unknown(lake, tracking):
    of = study()
    fill(lake, of, per_group=2, task=None)
    rows = lake.scan(rankings_table(of.name)).drop("fingerprint").collect()
    nan = pl.lit(math.nan)
    rows = rows.with_columns(
        exact_score=nan,
        tokens=pl.when(pl.col("rank") == 1).then(pl.lit([], pl.List(pl.String))).otherwise("tokens"),
        token_scores=pl.col("token_scores").list.eval(pl.element() * nan.cast(pl.Float32)),
    )
    put(lake, rankings_table(of.name), rows.to_dicts())
    reader = Reader(made(lake, tracking, of))
    assert "nan" not in reader.text.lower().split() and "None" not in reader.text
    assert "exact –." in reader.text and "how well they agree with exact ones is not known" in reader.text
    assert "The river Dunmore" in reader.text
    assert "– –" not in reader.text.replace("(–)", "–")


def test_a_study_of_a_hundred_queries_stays_small(lake, tracking):
    fill(lake, study(), per_group=25, tokens=512)
    html = made(lake, tracking)
    assert len(html.encode()) < LARGEST_PAGE / 4
    assert "tokens before" in html and "tokens after" in html
    assert len(Reader(html).all("article")) == 8


def test_the_page_is_kept_when_nothing_changed_and_made_again_when_a_row_did(lake, tracking):
    of = study()
    fill(lake, of, per_group=2)
    asset, tags = report_asset(of, findings(of), nothing), {"headwater/reuse": "true"}

    def version() -> int:
        assert dg.materialize([asset], resources={"lake": lake, "tracking": tracking}, tags=tags).success
        return lake.version(report_table(of.name))

    first = version()
    assert version() == first
    table = report_study.claims_table(of.name)
    rows = lake.scan(table).collect().with_columns(fingerprint=pl.lit("f" * 16)).select(table.schema.names)
    lake.overwrite(table, rows.to_arrow(), commit={})
    assert version() == first + 1


def test_the_page_is_an_artifact_and_linked_from_the_asset(lake, tmp_path):
    tracking = Tracking(tracking_uri=f"sqlite:///{tmp_path}/mlflow.db", artifacts=(tmp_path / "artifacts").as_uri())
    of = study()
    fill(lake, of, per_group=2)
    result = dg.materialize([report_asset(of, findings(of), nothing)], resources={"lake": lake, "tracking": tracking})
    facts = result.asset_materializations_for_node("study__example__report")[0].metadata
    assert facts["size (kB)"].value < 500 and facts["claims"].value == 11 and facts["claims that hold"].value == 4
    address = facts["page"].value
    run = re.search(r"runs/(\w+)/artifacts/report.html", address)[1]
    client = MlflowClient(tracking.tracking_uri)
    local = client.download_artifacts(run, "report.html", str(tmp_path))
    html = lake.scan(report_table(of.name)).collect()["html"][0]
    with open(local, encoding="utf-8", newline="") as file:
        assert file.read() == html


def test_queries_are_chosen_of_all_kinds_right_and_wrong():
    rows = [
        {
            "query_id": f"{group}{number}",
            "group": group,
            "task": "t",
            "is_right": number % 2 == 0,
            "is_control": control,
        }
        for group, control in (("a", False), ("b", False), ("a control", True))
        for number in range(10)
    ]
    found = chosen_queries(pl.DataFrame(rows), [row["query_id"] for row in rows])
    assert found == ["a0", "a2", "a1", "b0", "b2", "b1", "a control0", "a control1"]
    assert chosen_queries(pl.DataFrame(rows), ["b3"]) == ["b3"]


def test_a_long_document_is_cut_around_what_carries_its_score():
    scores = [0.0] * 900
    scores[700], scores[710], scores[5] = 0.5, -0.4, 0.1
    start, end = window(scores, 240)
    assert end - start == 240 and start <= 700 < 710 < end
    assert window([1.0, math.nan], 240) == (0, 2)


def test_tokens_are_coloured_by_their_share_of_the_largest():
    row = {
        "rank": 1, "score": 0.5, "exact_score": 0.5, "document_id": "d", "source": None, "end": "top",
        "text": "abcde", "tokens": list("abcde"), "token_scores": [0.0, 1.0, 0.001, -0.5, None], 
        "likely_spurious": None,
    }  # fmt: skip
    found = passage(row)
    assert [(span.text, span.level) for span in found.spans] == [("a", 0), ("b", 5), ("c", 0), ("d", -4), ("e", 0)]
    assert found.spans[1].share == "+1.00 · 67 %" and found.spans[3].share == "−0.500 · 33 %"


def test_groups_stand_beside_their_controls_and_statistics_are_few():
    shared = {"analysis": "correlation", "method": "ekfac", "statistic": "mean correlation", "queries": 9}
    shared |= {"estimate": 0.5, "low": 0.4, "high": 0.6, "chance": None}
    groups = [
        "reasoning",
        "reasoning, same task",
        "reasoning: slope",
        "factual × reasoning",
        "factual × reasoning control",
    ]
    groups += ["reasoning control", "reasoning control, same task", "factual control × reasoning control"]
    rows = [shared | {"group": group, "contrast": None, "p_adjusted": None} for group in groups]
    rows.append(rows[0] | {"contrast": "reasoning control", "p_adjusted": 0.01})
    other = rows[0] | {"method": "bm25", "estimate": 0.1}
    subjects = {subject.analysis: subject for subject in SUBJECTS}
    found = evidence_tables(subjects["correlation"], pl.DataFrame([*rows, other], infer_schema_length=None), "ekfac")
    beside = {row.group: row.control is not None for row in found.groups}
    assert beside == {"factual × reasoning": True, "reasoning": True, "reasoning, same task": True}
    assert [row.group for row in found.parts] == ["factual × reasoning control", "reasoning: slope"]
    assert {row.group: row.p for row in found.groups if row.p == row.p} == {"reasoning": 0.01}
    named = [(row.group, row.estimates[1] and row.estimates[1].value) for row in found.by_method][2:4]
    assert named == [("reasoning", 0.1), ("reasoning control", None)]
    tops = [f"answer in the top {top}" for top in (1, 10, 5, 500, 100, 50)]
    assert subjects["answers"].leading(tops) == ["answer in the top 1", "answer in the top 10", "answer in the top 500"]
    ends = [f"representation of {source}, {end}" for source in "ab" for end in ("top 500", "top 50", "bottom 50")]
    assert subjects["sources"].leading(ends) == ["representation of a, top 50", "representation of b, top 50"]


def test_numbers_are_short_and_say_when_they_are_unknown():
    assert [number(value) for value in (0.0, 0.01234, 12.345, 1234.5, 2e-7, -0.5, math.nan, None)] == [
        "0", "0.0123", "12.3", "1,234", "2.0 × 10⁻⁷", "−0.500", "–", "–",
    ]  # fmt: skip
    assert (
        number(0.5512, "%") == "55 %"
        and number(2.04, "×") == "2.04 ×"
        and number(-0.3, "points") == "−30 points"
        and number(math.inf) == "∞"
    )
    assert interval(0.1, 0.25, "%") == "10 to 25 %" and interval(math.nan, 1.0) == "–"
    assert [p_value(value) for value in (0.0001, 0.0123, 0.5, math.nan)] == ["< 0.001", "0.012", "0.50", "–"]


def test_signs_stand_for_characters_that_would_not_be_seen():
    assert visible("a\tb\n\x1b[0m\r\x7f\u202e\u2066\ufeff\ud800\u200d") == (
        "a\tb\n␛[0m␍␡⟨U+202E⟩⟨U+2066⟩⟨U+FEFF⟩\ufffd\u200d"
    )


def test_of_depths_the_largest_is_stated_where_chance_leaves_room():
    def stated(analysis: str, *chances: float | None) -> list[str]:
        rows = [
            {"statistic": f"answer in the top {depth}", "chance": chance}
            for depth, chance in zip((5, 50, 500), chances, strict=True)
        ]
        return [row["statistic"].split()[-1] for row in verdicts._one_of_each({(analysis,): rows})]

    assert stated("answers", 0.01, 0.1, 0.4) == ["500"]
    assert stated("answers", 0.1, 0.3, 0.97) == ["50"]
    assert stated("answers", 0.6, 0.9, 0.99) == ["5"]
    assert stated("answers", None, math.nan, math.nan) == ["500"]
    assert stated("sources", 1.0, 1.0, 1.0) == ["5"]
