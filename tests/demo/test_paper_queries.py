"""The paper's preset: queries in its formats and numbers, the choice among them, the corpus's sample, the studies."""

from __future__ import annotations

import json
import random
import re
from collections import Counter
from fractions import Fraction
from pathlib import Path

import pytest
import zstandard

from assets.corpus.preflight import preflight_corpus
from assets.queries.reading import read_queries
from assets.specs.queries import QueriesSpec
from assets.study.answers import is_right
from compute.errors import BadInput
from compute.tokenizer import train_tokenizer
from examples.studies import keep, queries, sample
from examples.studies.facts import RELATIONS, all_facts
from examples.studies.reasoning import TASKS
from orchestration.studies import load_studies, read_study
from tests.orchestration.tiny_study import write_study

STUDIES = Path(queries.__file__).parent
FILES = sorted(path.name for path in STUDIES.glob("*.yaml"))


@pytest.fixture(scope="module")
def candidates() -> list[dict]:
    return queries.candidates(tuple(TASKS), 0)


def of(rows: list[dict], kind: str, task: str | None = None) -> list[dict]:
    return [row for row in rows if row["kind"] == kind and task in (None, row["task"])]


# the candidates


def test_same_seed_same_file_and_another_seed_another(tmp_path):
    for name, seed in (("one", 0), ("again", 0), ("other", 1)):
        assert queries.main([str(tmp_path / name), "--model", "olmo2-7b", "--seed", str(seed)]) == 0
    assert (tmp_path / "one").read_bytes() == (tmp_path / "again").read_bytes() != (tmp_path / "other").read_bytes()


def test_a_file_is_a_query_set_that_is_read(candidates, tmp_path):
    queries.write(candidates, tmp_path / "queries.jsonl")
    read = read_queries(QueriesSpec(name="any", path="queries.jsonl"), tmp_path)
    assert [query.prompt for query in read] == [row["prompt"] for row in candidates]
    assert [query.step_answers for query in read] == [tuple(row.get("step_answers", ())) for row in candidates]


def test_each_model_is_asked_two_kinds_of_reasoning_as_in_the_paper(tmp_path):
    for model, tasks in (("olmo2-1b", {"arithmetic", "slope"}), ("olmo2-7b", {"slope", "equation"})):
        queries.main([str(tmp_path / "out"), "--model", model])
        rows = [json.loads(line) for line in (tmp_path / "out").read_text().splitlines()]
        assert Counter(row["task"] for row in of(rows, "reasoning")) == dict.fromkeys(tasks, 60)
        assert all(row["prompt"].startswith("<|endoftext|><|user|>\n") for row in rows)
        assert all(row["prompt"].endswith("\n<|assistant|>\n") for row in rows)


def test_there_are_more_candidates_than_are_needed(candidates):
    assert len(of(candidates, "factual")) >= 200
    assert all(
        len(of(candidates, "reasoning", task)) == len(of(candidates, "control", task)) + 50 == 60 for task in TASKS
    )
    assert sum(row["task"] not in TASKS for row in of(candidates, "control")) == 3 * len(RELATIONS) >= 20
    assert len({row["id"] for row in candidates}) == len({row["prompt"] for row in candidates}) == len(candidates)


FORMATS = {
    "arithmetic": r"Calculate the answer: \((\d+) ([+-]) (\d+)\) \* (\d+) Think step-by-step\.",
    "slope": r"What is the slope of the line that passes through the points \((\d+), (\d+)\) and \((\d+), (\d+)\)\? "
    r"Think step-by-step\.",
    "equation": r"Solve for x: (\d+)x \+ (\d+) = (\d+) Think step-by-step\.",
}


def solved(task: str, found: tuple[str, ...]) -> tuple[Fraction, list[Fraction]]:
    """Answer and results of the steps, by exact arithmetic on what stands in the prompt."""
    if task == "arithmetic":
        a, b, c = (Fraction(found[place]) for place in (0, 2, 3))
        inner = a + b if found[1] == "+" else a - b
        return inner * c, [inner, inner * c]
    numbers = [Fraction(each) for each in found]
    if task == "slope":
        x1, y1, x2, y2 = numbers
        return (y2 - y1) / (x2 - x1), [y2 - y1, x2 - x1, (y2 - y1) / (x2 - x1)]
    a, b, c = numbers
    return (c - b) / a, [c - b, (c - b) / a]


@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize("seed", [0, 7])
def test_reasoning_prompts_have_the_format_and_answers_and_steps_are_right(task, seed):
    for row in of(queries.candidates([task], seed, per_task=200), "reasoning"):
        found = re.fullmatch(FORMATS[task], row["prompt"]).groups()
        answer, results = solved(task, found)
        assert answer.denominator == 1 and row["answer"] == str(answer)
        assert [Fraction(step.split(" = ")[1]) for step in row["step_answers"]] == results
        for step in row["step_answers"]:
            left, sign, right, result = re.fullmatch(r"(-?\d+) ([-+*/]) (-?\d+) = (-?\d+)", step).groups()
            a, b = Fraction(left), Fraction(right)
            assert {"+": a + b, "-": a - b, "*": a * b, "/": a / b if b else None}[sign] == int(result)
        assert task != "equation" or answer > 0
        assert task != "slope" or all(0 <= int(number) <= 100 for number in found)


def test_slopes_are_negative_too_and_arithmetic_subtracts_too(candidates):
    assert 10 < sum(int(row["answer"]) < 0 for row in of(candidates, "reasoning", "slope")) < 50
    assert 10 < sum(" - " in row["prompt"] for row in of(candidates, "reasoning", "arithmetic")) < 50


def test_controls_hold_their_answer_and_others_do_not(candidates):
    for row in candidates:
        stands_there = is_right(row["prompt"], row["answer"], kind=None, match="contains")
        if row["kind"] == "control":
            assert stands_there, row
        if row["kind"] == "factual":
            assert not stands_there, row


def test_controls_look_like_the_queries_of_their_task(candidates):
    tasks = {row["task"] for row in candidates if row["kind"] != "control"}
    assert {row["task"] for row in of(candidates, "control")} == tasks
    asked = {row["prompt"] for row in of(candidates, "reasoning")}
    for row in of(candidates, "control"):
        if row["task"] in TASKS:
            assert row["prompt"].endswith("Think step-by-step.") and row["prompt"] not in asked
        else:
            question = next(relation.question for relation in RELATIONS if relation.name == row["task"])
            assert question.split("{s}")[0] in row["prompt"]


def test_controls_are_about_what_no_fact_is_about(candidates):
    known = {word for fact in all_facts() for word in re.findall(r"\w+", f"{fact.subject} {fact.answer}".lower())}
    for row in of(candidates, "control"):
        if row["task"] not in (*TASKS, "year"):
            assert row["answer"].lower() not in known


def test_facts_are_well_formed():
    facts = all_facts()
    assert len(facts) == len({(fact.relation, fact.subject) for fact in facts}) >= 200
    for fact in facts:
        assert re.fullmatch(r"[A-Za-z]+( [A-Za-z]+)?|\d{4}", fact.answer), fact
        assert re.fullmatch(r"\d{4}", fact.answer) if fact.relation == "year" else fact.answer.isascii()
    assert all(len(relation.facts.split(";")) >= 20 for relation in RELATIONS)


# the choice among them


def answered(rows: list[dict], **shares: float) -> dict[str, bool]:
    """Right answers in the given shares of tasks or kinds, spread evenly; controls are right unless told otherwise."""
    seen: Counter = Counter()
    right = {}
    for row in rows:
        group = row["task"] if row["kind"] == "reasoning" else row["kind"]
        share = shares.get(group, 1.0)
        right[row["id"]] = int((seen[group] + 1) * share) > int(seen[group] * share)
        seen[group] += 1
    return right


GOOD = {"arithmetic": 0.9, "slope": 0.8, "equation": 0.75, "factual": 0.7}


def test_the_kept_queries_are_those_of_the_paper_in_number_and_kind(candidates):
    right = answered(candidates, **GOOD)
    kept = keep.choose(candidates, right, 0, study="any")
    assert Counter(row["task"] for row in of(kept, "reasoning")) == {"arithmetic": 20, "slope": 20}
    assert Counter(right[row["id"]] for row in of(kept, "factual")) == {True: 20, False: 20}
    controls = of(kept, "control")
    assert Counter(row["task"] for row in controls if row["task"] in TASKS) == {"arithmetic": 5, "slope": 5}
    assert len(controls) == 20 and len(kept) == 100
    assert {row["task"] for row in controls} <= {row["task"] for row in kept if row["kind"] != "control"}
    places = [candidates.index(row) for row in kept]
    assert places == sorted(places)


def test_wrong_answers_of_a_kept_task_stay_in(candidates):
    right = answered(candidates, **GOOD)
    kept = [right[row["id"]] for row in of(keep.choose(candidates, right, 0, study="any"), "reasoning")]
    assert 0 < kept.count(False) < 16


def test_the_choice_depends_on_the_seed_alone(candidates):
    right = answered(candidates, **GOOD)
    one, again, other = (keep.choose(candidates, right, seed, study="any") for seed in (0, 0, 1))
    assert one == again and one != other


@pytest.mark.parametrize(("share", "is_kept"), [(48 / 60, True), (47 / 60, False)])
def test_a_task_is_kept_from_eighty_percent_on(candidates, share, is_kept):
    right = answered(candidates, arithmetic=1.0, slope=share + 1e-9, equation=0.0, factual=0.5)
    assert keep.accuracies(candidates, right)["slope"] == pytest.approx(share)
    kept = keep.choose(candidates, right, 0, study="any")
    tasks = Counter(row["task"] for row in of(kept, "reasoning"))
    assert tasks == ({"arithmetic": 20, "slope": 20} if is_kept else {"arithmetic": 40})


@pytest.mark.parametrize("low", [{}, {"slope": 0.5}])
def test_of_more_tasks_than_two_the_best_are_taken(candidates, low):
    shares = {"arithmetic": 0.85, "slope": 0.9, "equation": 0.95, "factual": 0.5} | low
    kept = keep.choose(candidates, answered(candidates, **shares), 0, study="any")
    assert {row["task"] for row in of(kept, "reasoning")} == (
        {"arithmetic", "equation"} if low else {"slope", "equation"}
    )


@pytest.mark.parametrize(
    ("shares", "sentence"),
    [
        (
            {"arithmetic": 0.5, "slope": 0.25, "equation": 0.0, "factual": 0.5},
            r"study any: its model answers no reasoning task rightly 80% of the time \(arithmetic 50%, slope 25%, "
            r"equation 0%\); ask a larger model",
        ),
        ({"factual": 1.0}, r"study any: there are 0 factual queries answered wrongly, but 20 are needed; add harder"),
        ({"factual": 0.02}, r"there are \d factual queries answered rightly, but 20 are needed; add easier"),
        ({"factual": 0.5, "control": 0.1}, r"there are \d factual controls answered rightly, but 10 are needed"),
    ],
)
def test_too_few_of_a_kind_is_one_sentence(candidates, shares, sentence):
    with pytest.raises(BadInput, match=sentence) as caught:
        keep.choose(candidates, answered(candidates, **shares), 0, study="any")
    assert "\n" not in str(caught.value)


def test_too_few_candidates_of_a_task_is_one_sentence():
    rows = queries.candidates(["arithmetic"], 0, per_task=30)
    with pytest.raises(BadInput, match="there are 30 reasoning queries on arithmetic, but 40 are needed; write more"):
        keep.choose(rows, answered(rows, factual=0.5), 0, study="any")


def test_an_answer_that_is_not_known_is_one_sentence(candidates):
    right = answered(candidates, **GOOD)
    del right[candidates[5]["id"]]
    with pytest.raises(BadInput, match=f"whether query {candidates[5]['id']} is right; give it an answer"):
        keep.choose(candidates, right, 0, study="any")


def test_the_command_asks_the_model_once_and_needs_neither_corpus_nor_curvature(tmp_path, monkeypatch, capsys):
    """The completions are given here, so that some are right; prompts are short enough for the tiny model."""
    monkeypatch.setenv("HEADWATER_HOME", str(tmp_path / "home"))
    study = write_study(tmp_path / "study", queries={"path": "candidates.jsonl"})
    for part in (tmp_path / "study" / "corpus").iterdir():
        part.unlink()
    rows = queries.candidates(["arithmetic"], 0, per_task=40)
    rows = [row for row in rows if row["kind"] != "factual"] + of(rows, "factual")[:60]
    right = answered(rows, arithmetic=0.85, factual=0.5)
    short = [
        row | {"prompt": "the cat", "completion": f" {row['answer'] if right[row['id']] else 'mat'}"} for row in rows
    ]
    queries.write(short, tmp_path / "study" / "candidates.jsonl")
    out = tmp_path / "data" / "out.jsonl"
    assert keep.main([str(study), str(out)]) == 0
    assert [json.loads(line)["id"] for line in out.read_text().splitlines()] == [
        row["id"] for row in keep.choose(rows, right, 0, study="any")
    ]
    assert re.search(r"reasoning +arithmetic +40 +85% +40\n", capsys.readouterr().out)
    tables = {path.parent.name: path for path in (tmp_path / "home" / "lake").glob("*/*/*/_delta_log")}
    assert set(tables) == {"tokenizer", "checkpoint", "queries", "completions"}
    commits = sorted(tables["completions"].glob("*.json"))
    assert keep.main([str(study), str(out), "--seed", "1"]) == 0
    assert sorted(tables["completions"].glob("*.json")) == commits


def test_a_study_that_cannot_be_read_is_one_sentence(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("HEADWATER_HOME", str(tmp_path / "home"))
    assert keep.main([str(tmp_path / "none.yaml"), str(tmp_path / "out.jsonl")]) == 1
    assert re.fullmatch("keep: .*none.yaml: there is no such file.*\n", capsys.readouterr().err)


# the corpus


def test_quotas_are_the_shares_of_the_mix_and_add_up():
    counts = sample.quotas(5_000_000)
    assert sum(counts.values()) == 5_000_000 and set(counts) == set(sample.TOKENS)
    assert counts["dclm"] / 5_000_000 == pytest.approx(0.951, abs=0.001) and counts["wiki"] > 4_000
    assert sum(sample.quotas(7).values()) == 7


@pytest.fixture
def mix(tmp_path) -> Path:
    """The mix's folders, small: several compressed files each, one of them in a deeper folder."""
    draw = random.Random(0)
    for source in sample.TOKENS:
        for part in range(3):
            path = tmp_path / "mix" / source / ("deep" if part else ".") / f"part-{part}.json.zst"
            path.parent.mkdir(parents=True, exist_ok=True)
            rows = [
                {"text": " ".join(draw.choices("one two three four".split(), k=draw.randint(1, 30)))}
                for _ in range(400)
            ]
            rows[3]["text"] = ""
            with zstandard.open(path, "wt") as file:
                file.writelines(json.dumps(row) + "\n" for row in rows)
    return tmp_path / "mix"


def lines(path: Path) -> list[str]:
    with zstandard.open(path, "rt") as file:
        return file.readlines()


def test_the_sample_is_a_corpus_with_sources_of_as_many_documents(mix, tmp_path):
    spec = read_study(STUDIES / "olmo2-1b.yaml").spec.corpus.model_copy(
        update={"max_tokens": 16, "path": ("sample/*.jsonl.zst",)}
    )
    tokenizer = train_tokenizer(["one two three four"], vocab_size=300)
    counts = sample.draw(str(mix), tmp_path / "sample", 1000, 0, spec, tokenizer)
    assert all(quota <= counts[source] <= quota + 2 for source, quota in sample.quotas(1000).items())
    preflight_corpus(spec, tmp_path)
    rows = []
    for path in sorted((tmp_path / "sample").iterdir()):
        found = [json.loads(line) for line in lines(path)]
        assert {row["source"] for row in found} == {path.name.rsplit("-", 1)[0]}
        rows += found
    assert len({row["id"] for row in rows}) == len(rows) and all(row["text"] for row in rows)
    assert len({row["id"].split(":")[0] for row in rows if row["source"] == "dclm"}) == 3
    sample.draw(str(mix), tmp_path / "again", 1000, 0, spec, tokenizer)
    sample.draw(str(mix), tmp_path / "other", 1000, 1, spec, tokenizer)
    texts = {
        name: [lines(path) for path in sorted((tmp_path / name).iterdir())] for name in ("sample", "again", "other")
    }
    assert texts["sample"] == texts["again"] != texts["other"]


def test_a_source_that_is_too_small_or_missing_is_one_sentence(mix, tmp_path):
    spec = read_study(STUDIES / "olmo2-1b.yaml").spec.corpus
    tokenizer = train_tokenizer(["one two three four"], vocab_size=300)
    with pytest.raises(BadInput, match=r"mix/dclm: holds 1197 documents, but 9513 are needed; ask for fewer"):
        sample.draw(str(mix), tmp_path / "sample", 10_000, 0, spec, tokenizer)
    with pytest.raises(BadInput, match="holds no files"):
        sample.draw(str(tmp_path / "nowhere"), tmp_path / "sample", 10, 0, spec, tokenizer)


# the studies


@pytest.mark.parametrize("name", FILES)
def test_every_study_file_is_valid(name):
    spec = read_study(STUDIES / name).spec
    assert spec.study == name.removesuffix(".yaml")
    assert spec.model.hub and re.fullmatch("[0-9a-f]{40}", spec.model.revision)
    assert spec.query_model.hub and re.fullmatch("[0-9a-f]{40}", spec.query_model.revision)
    assert spec.corpus.fields.source == "source"


def test_all_of_them_can_be_registered_together():
    """Each part that two of them name alike is declared alike."""
    loaded = load_studies(STUDIES)
    assert len(loaded) == len(FILES) == 4
    assert [each.error for each in loaded] == [None] * 4


@pytest.mark.parametrize("size", ["1b", "7b"])
def test_the_settings_are_the_papers(size):
    spec = read_study(STUDIES / f"olmo2-{size}.yaml").spec
    assert spec.corpus.max_tokens == 512
    assert (spec.curvature.sample_documents, spec.curvature.modules, spec.curvature.labels) == (
        100_000,
        "mlp",
        "sampled",
    )
    assert (spec.options.rank, spec.options.damping) == (32, 0.1)
    assert spec.options.products == spec.model.dtype == "bfloat16"
    asked = read_study(STUDIES / f"olmo2-{size}-candidates.yaml").spec
    assert asked.query_model == spec.query_model and asked.options.max_new_tokens == spec.options.max_new_tokens


def test_both_sizes_read_the_same_documents_and_fit_on_the_same_ones():
    small, large = (read_study(STUDIES / f"olmo2-{size}.yaml").spec for size in ("1b", "7b"))
    assert small.corpus.model_dump(exclude={"name"}) == large.corpus.model_dump(exclude={"name"})
    assert small.curvature.seed == large.curvature.seed


def test_the_page_names_files_and_commands_that_are_there():
    page = (STUDIES / "README.md").read_text(encoding="utf-8")
    assert f"a table of {len(all_facts())} facts" in page
    for name in re.findall(r"`([\w-]+\.(?:yaml|py))`", page):
        assert (STUDIES / name).exists()
    for module in re.findall(r"python -m examples\.studies\.(\w+)", page):
        assert (STUDIES / f"{module}.py").exists()
