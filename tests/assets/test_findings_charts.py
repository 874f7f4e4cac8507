"""The findings' figures: each is drawn from a study of the paper's size and from odd ones, and shows its numbers."""

from __future__ import annotations

import base64
import io
import re
import subprocess
import sys

import numpy as np
import polars as pl
import pytest
from PIL import Image

from assets.figures.drawing import BLUE, GREEN, GREY, ORANGE, Figure
from assets.findings import charts, claim_rules
from assets.findings.charts import looks, matrices, reading
from assets.findings.charts.panels import Scale
from assets.findings.claims import decided
from assets.findings.comparing import Comparing
from assets.findings.evidence import Evidence, evidence_rows
from assets.findings.groups import grouped
from assets.specs.findings import FindingsSpec

LARGEST_PNG, LARGEST_SVG = 44_000, 600_000
METHODS = ("bm25", "dot", "ekfac")
SOURCES = {"code": 0.3, "wikipedia": 0.12, "maths": 0.03, "books": 0.2, "forum": 0.35}
CUTOFFS = (50, 500, 5_000, 50_000, 500_000)
DOCUMENTS = 5_000_000
FACTS = ("author", "birth year", "capital", "currency", "river")
REASONING = ("arithmetic", "equation", "slope")
SETTINGS = FindingsSpec(resamples=100)
NAMES = ("correlation", "magnitude", "power_law", "answers", "kinds", "sources", "claims")
ODD = 'a|b <b>"&\n' + "x" * 60


def queries(seed: int = 0) -> pl.DataFrame:
    """40 factual and 40 reasoning queries, half of them right, and 10 controls of each."""
    draw, rows = np.random.default_rng(seed), []
    for kind, tasks, count in (("factual", FACTS, 40), ("reasoning", REASONING, 40), ("control", FACTS, 10)):
        rows += [(f"{kind}-{n:02}", tasks[n % len(tasks)], kind) for n in range(count)]
    rows += [(f"control-r-{n:02}", REASONING[n % 3], "control") for n in range(10)]
    frame = pl.DataFrame(rows, schema=["query_id", "task", "kind"], orient="row")
    return grouped(
        frame.with_columns(
            is_right=pl.Series([bool(n % 2) for n in range(len(rows))]), nats=pl.Series(draw.uniform(2, 30, len(rows)))
        )
    )


def one_query() -> pl.DataFrame:
    """Of a study whose only query has neither kind nor task."""
    columns = {"query_id": ["q"], "task": [None], "kind": [None], "is_right": [None], "nats": [3.0]}
    return grouped(
        pl.DataFrame(columns, schema_overrides={"task": pl.String, "kind": pl.String, "is_right": pl.Boolean})
    )


def told(analysis: str, found: list[Evidence]) -> pl.DataFrame:
    return pl.from_arrow(evidence_rows(analysis, found, "stamp"))


def strength(query: dict, method: str) -> float:
    """How much of an effect a query has: none in controls, less under the other methods."""
    return (0.15 if query["is_control"] else 1.0) * {"ekfac": 1.0, "dot": 0.6, "bm25": 0.4}[method]


def asked(of: pl.DataFrame, methods: tuple[str, ...]):
    for method in methods:
        for query in of.iter_rows(named=True):
            yield {"method": method, **{key: query[key] for key in ("query_id", "group", "task")}}, query


def correlation(of: pl.DataFrame, methods: tuple[str, ...] = METHODS) -> tuple[pl.DataFrame, pl.DataFrame]:
    draw, rows, found = np.random.default_rng(1), [], []
    every, columns = of.to_dicts(), ("query_id", "task", "group")
    for method in methods:
        for at, one in enumerate(every):
            for other in every[at + 1 :]:
                r = draw.normal(0, 0.04)
                if one["task"] == other["task"] and one["kind"] == "reasoning":
                    r += draw.uniform(0.35, 0.75) * strength(one, method) * strength(other, method)
                elif one["kind"] == other["kind"]:
                    r += 0.06
                pair = {f"other_{name}": other[name] for name in columns} | {name: one[name] for name in columns}
                rows.append({"method": method, "other_method": method, "r": r, "documents": DOCUMENTS, **pair})
        for query in every if method != "ekfac" and "ekfac" in methods else ():
            pair = {f"other_{name}": query[name] for name in columns} | {name: query[name] for name in columns}
            r = 0.4 + draw.normal(0, 0.1)
            rows.append({"method": method, "other_method": "ekfac", "r": r, "documents": DOCUMENTS, **pair})
    schema = ["method", "query_id", "other_method", "other_query_id", "task", "other_task", "group", "other_group"]
    frame = pl.DataFrame(rows, schema=[*schema, "r", "documents"])
    for (method, other), part in frame.group_by("method", "other_method"):
        if method != other:
            found += Comparing(of, SETTINGS).found(
                f"{method}, {other}", "correlation of two methods", part.select("query_id", "r")
            )
            continue
        named = {"method": method, "statistic": "mean correlation"}
        for group, pairs in blocks(part).items():
            mean, half = pairs["r"].mean(), 0.02
            found.append(Evidence(group=group, estimate=mean, low=mean - half, high=mean + half, queries=40, **named))
        for kind in ("factual", "reasoning"):
            contrast = {"group": f"{kind}, same task", "contrast": f"{kind}, other task"}
            found.append(Evidence(estimate=0.2, low=0.1, high=0.3, p_value=1e-4, queries=40, **named, **contrast))
    return frame, told("correlation", found)


def blocks(pairs: pl.DataFrame) -> dict[str, pl.DataFrame]:
    """Pairs by the names that evidence has for them."""
    one, other = pl.col("group"), pl.col("other_group")
    named = {}
    for (group, against), part in pairs.group_by(
        one=pl.min_horizontal(one, other), other=pl.max_horizontal(one, other)
    ):
        named[group if group == against else f"{group} × {against}"] = part
        if group == against:
            same = part.filter(pl.col("task") == pl.col("other_task"))
            named[f"{group}, same task"] = same
            named |= {f"{group}: {task}": each for (task,), each in same.group_by("task")}
    return {name: part for name, part in named.items() if len(part)}


def magnitude(of: pl.DataFrame, methods: tuple[str, ...] = METHODS) -> tuple[pl.DataFrame, pl.DataFrame]:
    draw, rows = np.random.default_rng(2), []
    cuts = {f"top {100 * share:g} %": share * DOCUMENTS for share in (0.0001, 0.001, 0.01, 0.1, 1.0)}
    cuts |= {f"top {count}": float(count) for count in (10, 50, 100, 500)}
    for key, query in asked(of, methods):
        level = (0.02 + 0.02 * (query["kind"] == "factual")) * strength(query, key["method"]) * draw.lognormal(0, 0.3)
        for sign, less in (("positive", 1.0), ("negative", 0.7)):
            for cut, documents in cuts.items():
                value = level * less * (documents / DOCUMENTS) ** 0.35
                row = {"influence_per_nat": value, "coverage": (documents / DOCUMENTS) ** 0.35}
                rows.append(key | {"sign": sign, "cut": cut, "documents": documents, "influence": value * 9, **row})
    frame, comparing, found = pl.DataFrame(rows), Comparing(of, SETTINGS), []
    for (method, sign, cut), part in frame.group_by("method", "sign", "cut", maintain_order=True):
        values = part.select("query_id", value="influence_per_nat")
        if cut == "top 1 %":
            found += comparing.found(method, f"{sign} influence per nat, {cut}", values)
    return frame, told("magnitude", found)


def power_law(of: pl.DataFrame, methods: tuple[str, ...] = METHODS) -> tuple[pl.DataFrame, pl.DataFrame]:
    draw, rows = np.random.default_rng(3), []
    for key, query in asked(of, methods):
        slope = -0.32 - 0.06 * (query["kind"] == "factual") + draw.normal(0, 0.04) + 0.02 * (key["method"] != "ekfac")
        alpha = 1 - 1 / slope + draw.normal(0, 0.2)
        rows.append(key | {"is_right": query["is_right"], "points": 500, "slope": slope, "alpha": alpha, "p_fit": 0.3})
    frame, comparing, found = pl.DataFrame(rows, infer_schema_length=None), Comparing(of, SETTINGS), []
    for (method,), part in frame.group_by("method", maintain_order=True):
        for statistic in ("slope", "alpha"):
            found += comparing.found(method, statistic, part.select("query_id", value=statistic))
    return frame, told("power_law", found)


def answers(of: pl.DataFrame, methods: tuple[str, ...] = METHODS) -> tuple[pl.DataFrame, pl.DataFrame]:
    draw, rows = np.random.default_rng(4), []
    for key, query in asked(of, methods):
        for part in ("answer",) if query["kind"] != "reasoning" else ("answer", "step 1"):
            found = draw.random() < (0.95 if query["kind"] == "factual" else 0.6)
            spread = 9.0 / strength(query, key["method"]) * (1 if query["kind"] == "factual" else 20)
            rank = int(draw.exponential(1) ** 3 * spread) + 1 if found else None
            ranks = {"best_rank": rank, "worst_rank": rank, "best_document_id": None if rank is None else "d"}
            rows.append(key | {"is_right": query["is_right"], "part": part, "answer": "Paris"})
            rows[-1] |= {"match": "normalized", **ranks}
            rows[-1]["corpus_documents"] = 12 if found else 0
    frame, comparing, found = pl.DataFrame(rows, infer_schema_length=None), Comparing(of, SETTINGS), []
    for (method,), part in frame.group_by("method", maintain_order=True):
        worst = part.group_by("query_id").agg(worst=pl.col("worst_rank").fill_null(DOCUMENTS).max())
        for top in (1, 5, 10, 50, 100, 500):
            hits = worst.select("query_id", value=(pl.col("worst") <= top).cast(pl.Float64))
            found += comparing.shares(method, f"answer in the top {top}", hits, chance=top / 5000, against_chance=True)
    return frame, told("answers", found)


def kinds(of: pl.DataFrame, methods: tuple[str, ...] = METHODS) -> tuple[pl.DataFrame, pl.DataFrame]:
    draw, rows, found = np.random.default_rng(5), [], []
    corpus = {"worked_example": 0.04, "code": 0.02, "fact": 0.1, "other": 0.14, "none": 0.7}
    for key, query in asked(of, methods):
        liked = {"reasoning": ("worked_example", "code"), "factual": ("fact",)}.get(query["kind"], ())
        weight = strength(query, key["method"])
        odds = [share * (1 + weight * (40 if kind in liked else 0)) for kind, share in corpus.items()]
        counts = draw.multinomial(100, np.array(odds) / sum(odds))
        for (kind, share), count in zip(corpus.items(), counts, strict=True):
            rows.append(key | {"kind": kind, "documents": int(count), "share": count / 100, "corpus_share": share})
    frame, comparing = pl.DataFrame(rows), Comparing(of, SETTINGS)
    procedural = frame.filter(pl.col("kind").is_in(["worked_example", "code"]))
    for (method,), part in procedural.group_by("method", maintain_order=True):
        values = part.group_by("query_id").agg(value=pl.col("share").sum())
        found += comparing.found(
            method, "share of procedural documents, top 100", values, chance=0.06, against_chance=True
        )
    return frame, told("kinds", found)


def sources(
    of: pl.DataFrame, methods: tuple[str, ...] = METHODS, shares: dict[str, float] = SOURCES
) -> tuple[pl.DataFrame, pl.DataFrame]:
    draw, rows, found = np.random.default_rng(6), [], []
    liked = {("reasoning", "maths"): 30.0, ("reasoning", "code"): 2.5, ("factual", "wikipedia"): 5.5}
    for key, query in asked(of, methods):
        for end, cut_off, (source, share) in (
            (e, c, s) for e in ("top", "bottom") for c in CUTOFFS for s in shares.items()
        ):
            effect = liked.get((query["kind"], source), 0.7) ** (
                strength(query, key["method"]) * (0.6 if end == "bottom" else 1)
            )
            times = (1 + (effect - 1) * (50 / cut_off) ** 0.25) * draw.lognormal(0, 0.7)
            row = {"end": end, "cut_off": cut_off, "source": source, "documents": times * share * cut_off}
            rows.append(key | row | {"share": times * share, "corpus_share": share, "representation": times})
    frame, comparing = pl.DataFrame(rows), Comparing(of, SETTINGS)
    for (method, end, cut, source), part in frame.group_by("method", "end", "cut_off", "source", maintain_order=True):
        values = part.select("query_id", value="representation")
        tests = {"chance": 1.0, "against_chance": end == "top"}
        found += comparing.found(method, f"representation of {source}, {end} {cut}", values, **tests)
    return frame, told("sources", found)


def claims(of: pl.DataFrame, methods: tuple[str, ...] = METHODS) -> tuple[pl.DataFrame, pl.DataFrame]:
    made = (correlation, magnitude, power_law, answers, kinds, sources)
    evidence = pl.concat([make(of, methods)[1] for make in made])
    rows = decided(evidence)
    return pl.DataFrame(rows, infer_schema_length=None), evidence


MAKE = {make.__name__: make for make in (correlation, magnitude, power_law, answers, kinds, sources, claims)}


def drawn(name: str, rows: pl.DataFrame, evidence: pl.DataFrame) -> Figure:
    return getattr(charts, f"{name}_figure")(rows, evidence)


@pytest.fixture(scope="module")
def study() -> dict[str, tuple[pl.DataFrame, pl.DataFrame]]:
    return {name: make(queries()) for name, make in MAKE.items()}


def words(figure: Figure) -> str:
    """The text of a figure, which must be a whole picture, small enough, and need nothing from elsewhere."""
    with Image.open(io.BytesIO(figure.png)) as picture:
        picture.load()
        assert 200 < picture.width <= 1001 and 60 < picture.height < 1600
    assert len(figure.png) <= LARGEST_PNG and len(figure.svg) <= LARGEST_SVG
    addresses = set(re.findall(r"https?://[^\"' ]+", figure.svg))
    assert addresses <= {"http://www.w3.org/2000/svg", "http://www.w3.org/1999/xlink"}
    assert "NaN" not in re.sub(r"base64,[^\"]+", "", figure.svg)
    return " ".join(re.findall(r">([^<>]+)</t(?:ext|span)>", figure.svg))


def estimate(evidence: pl.DataFrame, statistic: str, group: str, method: str = "ekfac") -> dict:
    found = evidence.filter(pl.col("contrast").is_null(), statistic=statistic, group=group, method=method)
    return found.row(0, named=True)


@pytest.mark.parametrize("name", NAMES)
def test_every_figure_is_drawn_from_a_whole_study(study, name):
    shown = words(drawn(name, *study[name]))
    assert "EK-FAC" in shown
    if name != "claims":
        assert "control" in shown


@pytest.mark.parametrize("name", NAMES)
def test_one_method_alone_names_no_other(study, name):
    rows, evidence = study[name]
    if name == "correlation":
        rows = rows.filter(pl.col("other_method") == "bm25")
    shown = words(drawn(name, rows.filter(method="bm25"), evidence.filter(method="bm25")))
    assert "BM25" in shown and "EK-FAC" not in shown and "dot product" not in shown


@pytest.mark.parametrize("name", NAMES)
def test_without_controls_none_are_shown(name):
    kept = queries().filter(~pl.col("is_control"))
    shown = words(drawn(name, *MAKE[name](kept)))
    assert "control" not in shown.replace(", no controls", "").replace("hollow below it: the controls", "")


@pytest.mark.parametrize("name", [name for name in NAMES if name not in ("correlation", "claims")])
def test_one_query_without_kind_and_task_is_drawn(name):
    shown = words(drawn(name, *MAKE[name](one_query(), ("ekfac",))))
    assert "no kind" in shown


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("with_columns", [True, False])
def test_nothing_to_draw_is_said_in_words(study, name, with_columns):
    rows, evidence = study[name]
    figure = drawn(name, rows.clear() if with_columns else pl.DataFrame(), evidence.clear())
    assert (len(words(figure)) > len(figure.title) + 20 and "<path" in figure.svg) or "</text>" in figure.svg


@pytest.mark.parametrize("name", NAMES)
def test_unknown_intervals_and_values_leave_the_rest(study, name):
    rows, evidence = study[name]
    unknown = evidence.with_columns(low=float("nan"), high=float("nan"), chance=float("nan"), p_adjusted=float("nan"))
    words(drawn(name, rows, unknown))
    if name == "claims":
        names = [column for column in rows.columns if column.startswith("control_")]
        rows = rows.with_columns(pl.lit(float("nan")).alias(column) for column in ("low", "high", *names))
    for column in {"r", "influence_per_nat", "slope", "alpha", "representation", "share"} & set(rows.columns):
        rows = rows.with_columns(
            pl.when(pl.int_range(pl.len()) % 7 == 0).then(float("nan")).otherwise(column).alias(column)
        )
    words(drawn(name, rows, unknown))


@pytest.mark.parametrize("name", NAMES)
def test_without_evidence_there_is_a_figure_or_a_sentence(study, name):
    rows, evidence = study[name]
    words(drawn(name, rows, evidence.clear()))


def test_odd_names_are_shown_as_they_are(study):
    """Names come from users: quotes, markup and backslashes are text."""
    odd = {"maths": ODD, "code": "it's \\ a'b", "\x00": "x"}
    rows, evidence = sources(queries(), ("ekfac",), {odd.get(name, name): share for name, share in SOURCES.items()})
    assert "<b>" not in drawn("sources", rows, evidence).svg
    renamed = queries().with_columns(pl.col("task").replace({"slope": ODD, "capital": "it's"}))
    for name in NAMES:
        if name != "claims":
            assert "<b>" not in drawn(name, *MAKE[name](renamed, ("ekfac",))).svg


def test_many_sources_are_cut_to_those_that_differ_most():
    shares = SOURCES | {f"source {number}": 0.01 for number in range(8)}
    shown = words(drawn("sources", *sources(queries(), ("ekfac",), shares)))
    assert "the 10 of 13 sources" in shown and "maths" in shown and "3 % of the corpus" in shown


def test_a_source_that_is_never_met_stands_at_the_edge(study):
    rows, evidence = study["sources"]
    never = pl.col("statistic").str.starts_with("representation of books")
    zero = [pl.when(never).then(0.0).otherwise(name).alias(name) for name in ("estimate", "low", "high")]
    assert "≤ 1/32×" in words(drawn("sources", rows, evidence.with_columns(zero)))


def test_the_matrix_holds_every_pair_in_its_place(study):
    """The picture within the figure, read back: a block of one task is red, and the order is that of groups."""
    rows, evidence = study["correlation"]
    figure = drawn("correlation", rows, evidence)
    pictures = re.findall(r"data:image/png;base64,([A-Za-z0-9+/=]+)", figure.svg)
    with Image.open(io.BytesIO(base64.b64decode(pictures[0]))) as picture:
        side = picture.width // 100
        colors = np.asarray(picture.convert("RGB"), int)[side // 2 :: side, side // 2 :: side]
    assert colors.shape == (100, 100, 3)
    redness = colors[..., 0] - colors[..., 2]
    assert (np.diag(redness) == redness.max()).all() and (redness == redness.T).all()
    arithmetic = redness[40:54, 40:54]  # after 40 factual queries: 14 of arithmetic
    assert arithmetic.min() > redness[:40, 40:80].max()
    shown = words(figure)
    assert "4,950 pairs of 100 queries" in shown and "5,000,000 documents" in shown and "reasoning, 40" in shown
    mean = estimate(evidence, "mean correlation", "reasoning, same task")["estimate"]
    assert f"reasoning, same task {mean:.2f}" in shown and "factual × reasoning" in shown


def test_small_correlations_keep_their_sign_in_the_png(study):
    """Few colors are kept; a block of r = 0.06 must not turn blue, nor one of −0.06 red."""
    rows, evidence = study["correlation"]
    for sign in (1, -1):
        of_facts = (pl.col("group") == "factual") & (pl.col("other_group") == "factual")
        turned = rows.with_columns(r=pl.when(of_facts).then(sign * pl.col("r")).otherwise("r"))
        with Image.open(io.BytesIO(drawn("correlation", turned, evidence).png)) as picture:
            width, height = picture.size
            block = picture.convert("RGB").crop((0.21 * width, 0.125 * height, 0.295 * width, 0.24 * height))
        redness = np.asarray(block, int)[..., 0] - np.asarray(block, int)[..., 2]
        assert sign * redness.mean() > 1


def test_colors_of_correlations_are_white_at_zero_and_grey_where_unknown():
    shades = matrices.shades(np.array([[0.0, 1.0], [-1.0, np.nan]]), 1.0)
    assert tuple(shades[0, 0]) == (255, 255, 255) and tuple(shades[0, 1]) == matrices.HIGH
    assert tuple(shades[1, 0]) == matrices.LOW and tuple(shades[1, 1]) == matrices.UNKNOWN


def test_many_tasks_become_one_block():
    many = queries().with_columns(task=pl.col("query_id"))
    shown = words(drawn("correlation", *correlation(many, ("ekfac",))))
    assert "factual-00" not in shown and "reasoning" in shown


def test_magnitude_tells_the_mean_at_the_end_of_its_line(study):
    rows, evidence = study["magnitude"]
    whole = rows.filter(method="ekfac", sign="positive", cut="top 100 %", group="factual")["influence_per_nat"].mean()
    shown = words(drawn("magnitude", rows, evidence))
    assert f"factual {whole:.3g}" in shown and "0.001 %" in shown and "influence per nat" in shown
    counts = rows.filter(~pl.col("cut").str.contains("%"))
    assert "share" not in words(drawn("magnitude", counts, evidence))


def test_power_law_tells_means_of_right_and_wrong(study):
    rows, evidence = study["power_law"]
    figure = drawn("power_law", rows, evidence)
    shown = words(figure)
    for group in ("factual, right", "reasoning, wrong", "reasoning control"):
        row = reading.means(evidence).filter(method="ekfac", statistic="slope", group=group).row(0, named=True)
        assert group in shown and reading.with_interval(row) in shown
    assert "Slope, factual − reasoning: −0." in shown
    no_tail = rows.with_columns(alpha=float("nan"))
    assert "Exponent" not in words(drawn("power_law", no_tail, evidence))


def test_answers_tell_shares_and_what_the_corpus_holds(study):
    rows, evidence = study["answers"]
    shown = words(drawn("answers", rows, evidence))
    row = estimate(evidence, "answer in the top 500", "factual")
    assert f"EK-FAC {100 * row['estimate']:.0f} %" in shown and "by chance 10 %" in shown and "their controls" in shown
    whole = rows.filter(method="ekfac", group="reasoning").group_by("query_id").agg(pl.col("corpus_documents").min())
    share = (whole["corpus_documents"] > 0).mean()
    assert f"somewhere in the corpus: {100 * share:.0f} %" in shown


def test_kinds_fill_their_bars(study):
    """The parts of each bar, read back from the picture's description, add up to one."""
    rows, evidence = study["kinds"]
    figure = drawn("kinds", rows.filter(method="ekfac"), evidence.filter(method="ekfac"))
    shown = words(figure)
    assert all(
        word in shown for word in ("worked example", "code", "no rule fits", "reasoning: slope", "factual control")
    )
    assert "top 100 documents" in shown
    mean = rows.filter(method="ekfac", group="reasoning", task="slope", kind="worked_example")["share"].mean()
    stops = [float(stop) for stop in re.findall(r"share of documents: ([0-9.]+)[;%]", figure.svg)]
    assert not stops or any(abs(stop - mean) < 0.01 for stop in stops)


def test_more_methods_than_dashes_can_tell_have_colors():
    six = looks.method_looks(["ekfac", "dot", "kfac", "cosine", "trackstar", "astra"], BLUE)
    assert len({look.color for look in six.values()}) == 6
    three = looks.method_looks(["ekfac", "dot", "bm25"], BLUE)
    assert len({look.color for look in three.values()}) == 2 and len({look.dash for look in three.values()}) == 3


def test_claims_tell_numbers_verdicts_and_depths(study):
    rows, evidence = study["claims"]
    shown = words(drawn("claims", rows, evidence))
    row = rows.filter(method="ekfac", claim="maths, top 50, reasoning").row(0, named=True)
    assert reading.with_interval(row) in shown and "maths, top 500, reasoning" not in shown
    assert "answers of factual queries, top 500" in shown and "of 6 depths" in shown
    assert set(rows["verdict"]) >= {claim_rules.NOT_FOUND, claim_rules.SPECIFIC, claim_rules.FEW_QUERIES}


@pytest.mark.parametrize(
    ("verdict", "color"),
    [
        (claim_rules.SPECIFIC, GREEN),
        (claim_rules.IN_CONTROLS, ORANGE),
        (claim_rules.CONTROLS_MAY, BLUE),
        (claim_rules.FEW_CONTROLS, BLUE),
        (claim_rules.NO_CONTROLS, BLUE),
        (claim_rules.FEW_QUERIES, GREY),
        (claim_rules.NOT_FOUND, GREY),
    ],
)
def test_only_what_is_shown_to_be_of_the_task_is_green(study, verdict, color):
    rows, evidence = study["claims"]
    one = rows.filter(method="ekfac", claim="magnitude").with_columns(verdict=pl.lit(verdict))
    figure = drawn("claims", one, evidence)
    assert verdict in words(figure)
    assert (GREEN in figure.svg) == (color == GREEN) and color in figure.svg


def test_numbers_have_the_places_that_their_interval_asks_for():
    written = reading.with_interval({"estimate": -0.0312, "low": -0.052, "high": -0.0101})
    assert written == "−0.031 (−0.052 to −0.010)"
    assert reading.with_interval({"estimate": 0.5, "low": None, "high": None}) == "0.5"
    assert reading.number(-0.0001, 2) == "0.00" and reading.number(None) == "–"
    assert reading.chance_of(0.0001) == ", p < 0.001" and reading.chance_of(float("nan")) == ""


def test_groups_and_methods_stand_in_their_order():
    names = ["reasoning control", "puzzle", "reasoning", "factual control", "factual"]
    assert looks.ordered_groups(names) == ["factual", "reasoning", "puzzle", "factual control", "reasoning control"]
    assert looks.ordered_methods(pl.DataFrame({"method": ["bm25", "dot", "x", "ekfac"]})) == [
        "ekfac",
        "dot",
        "bm25",
        "x",
    ]
    shown = looks.looks_of(names)
    assert shown["factual control"].is_quiet and len({look.color for look in shown.values()}) == 5


def test_an_axis_is_never_empty():
    assert Scale("", 1.0, 1.0).domain == (0.5, 1.5)
    low, high = Scale("", 0.0, 0.0, log=True).domain
    assert 0 < low < high
    assert Scale("", 1.0, 100.0, log=True).place(10.0, 50) == pytest.approx(25)


def test_drawing_is_imported_when_it_is_needed():
    script = (
        "import sys, assets.findings.charts;"
        "print([name for name in ('altair', 'vl_convert', 'PIL', 'mlflow', 'torch') if name in sys.modules])"
    )
    assert subprocess.run([sys.executable, "-c", script], capture_output=True, text=True).stdout.strip() == "[]"
