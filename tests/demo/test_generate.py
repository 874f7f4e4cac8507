"""The demo's corpus and queries: generated alike each time, and the truth file tells the truth."""

from __future__ import annotations

import gzip
import json
import operator
import re
from collections import Counter

import pytest
import yaml

from assets.specs.study import StudySpec
from examples.demo import generate, problems, solutions, standard_library, world

OPERATORS = {"+": operator.add, "-": operator.sub, "*": operator.mul, "/": operator.truediv}


@pytest.fixture(scope="module")
def demo():
    return generate.build()


@pytest.fixture(scope="module")
def by_id(demo):
    return {record["id"]: record for record in demo.records}


def _numbers(text: str) -> list[int]:
    return [int(number) for number in re.findall(r"[0-9]+", text)]


def _words(text: str) -> set[str]:
    return set(re.findall(r"\w+", text.lower()))


def test_same_seed_same_files_and_another_seed_others(demo, tmp_path):
    generate.write(demo, tmp_path / "one")
    generate.write(generate.build(), tmp_path / "again")
    generate.write(generate.build(generate.DemoSettings(seed=1)), tmp_path / "other")
    files = {
        path.relative_to(tmp_path / "one"): path.read_bytes()
        for path in (tmp_path / "one").rglob("*.*")
        if path.is_file()
    }
    assert len(files) == 11
    assert all((tmp_path / "again" / path).read_bytes() == content for path, content in files.items())
    assert sum((tmp_path / "other" / path).read_bytes() != content for path, content in files.items()) == 9


def test_files_hold_every_record(demo, tmp_path):
    generate.write(demo, tmp_path)
    lines = []
    for path in (tmp_path / "corpus").iterdir():
        content = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
        lines += [json.loads(line) for line in content.decode().splitlines()]
    assert sorted(lines, key=lambda record: record["id"]) == sorted(demo.records, key=lambda record: record["id"])
    assert all(record["text"].strip() for record in lines)


def test_the_command_writes_the_demo(demo, tmp_path, capsys):
    assert generate.main([str(tmp_path)]) == 0
    assert len((tmp_path / "queries.jsonl").read_text().splitlines()) == len(demo.queries)
    assert generate.main([]) == 2
    assert "usage" in capsys.readouterr().err


def test_sizes_are_those_of_the_paper_scaled_down(demo):
    assert 4000 <= len(demo.records) <= 5500
    sources = Counter(record["source"] for record in demo.records)
    assert set(sources) == {
        "arithmetic",
        "slopes",
        "equations",
        "encyclopedia",
        "mathematics",
        "python_code",
        "python_prose",
    }
    assert min(sources.values()) >= 150
    kinds = Counter(query["kind"] for query in demo.queries)
    reasoning = Counter(query["task"] for query in demo.queries if query["kind"] == "reasoning")
    assert kinds["factual"] >= 24 and kinds["control"] >= 12
    assert set(reasoning) == set(problems.TASKS) and min(reasoning.values()) >= 8
    assert len({query["id"] for query in demo.queries}) == len(demo.queries)
    assert len({record["id"] for record in demo.records}) == len(demo.records)


def test_every_format_of_every_task_occurs(demo):
    forms = Counter((record["procedure"], record["format"]) for record in demo.records if record["procedure"] != "none")
    assert set(forms) == {(task, form) for task in problems.TASKS for form in solutions.FORMATS}
    assert min(forms.values()) >= 200


@pytest.mark.parametrize("task", problems.TASKS)
def test_no_document_has_the_numbers_of_a_held_out_problem(demo, task):
    held_out = generate.held_out(task)
    assert len(held_out) >= 50
    combinations = {problem.combination for problem in held_out}
    used = {tuple(sorted(record["numbers"])) for record in demo.records if record["procedure"] == task}
    assert used and not used & combinations


@pytest.mark.parametrize("task", problems.TASKS)
def test_each_step_that_a_held_out_problem_needs_is_taught(demo, task):
    texts = [record["text"] for record in demo.records if record["procedure"] == task]
    taught = {(int(a), sign, int(b)) for text in texts for a, sign, b in re.findall(r"(\d+) ([-+*/]) (\d+) = ", text)}
    assert not {step for problem in generate.held_out(task) for step in problem.steps} - taught


def test_no_document_of_any_source_spells_out_a_query(demo):
    """Not the question's numbers in a row, in no document, whatever stands between them."""
    width = {"arithmetic": 3, "slope": 4, "equation": 3}
    rows = {size: set() for size in width.values()}
    for record in demo.records:
        numbers = _numbers(record["text"])
        for size, seen in rows.items():
            seen.update(tuple(numbers[start : start + size]) for start in range(len(numbers) - size + 1))
    asked = [query for query in demo.queries if query["kind"] == "reasoning"]
    for query in asked:
        numbers = tuple(_numbers(query["prompt"]))
        assert len(numbers) == width[query["task"]]
        assert numbers not in rows[len(numbers)], query["prompt"]


def test_records_of_a_procedure_hold_their_numbers(demo):
    for record in demo.records:
        if record["procedure"] != "none":
            assert not Counter(record["numbers"]) - Counter(_numbers(record["text"]))


@pytest.mark.parametrize("task", problems.TASKS)
def test_worked_steps_are_right_in_every_wording(task):
    for problem in problems.all_problems(task)[::7]:
        for form in solutions.FORMATS:
            for variant in range(2):
                text = solutions.worked(problem, form, variant)
                steps = re.findall(r"([0-9]+) ([-+*/]) ([0-9]+) = ([0-9]+)", text)
                assert len(steps) == (3 if task == "slope" else 2)
                for left, sign, right, result in steps:
                    assert OPERATORS[sign](int(left), int(right)) == int(result)
                assert int(steps[-1][-1]) == problem.answer


def test_answers_of_reasoning_queries_are_right(demo):
    for query in demo.queries:
        if query["kind"] == "reasoning":
            assert int(query["answer"]) == _solved(
                query["task"], _numbers(query["prompt"]), "-" in query["prompt"].split("Think")[0]
            )


def _solved(task: str, numbers: list[int], minus: bool) -> float:
    if task == "arithmetic":
        a, b, c = numbers
        return (a - b if minus else a + b) * c
    if task == "slope":
        a, b, c, d = numbers
        return (d - b) / (c - a)
    a, b, c = numbers
    return (c - b) / a


def test_facts_are_stated_where_the_truth_says_and_nowhere_else(demo, by_id):
    facts = {fact.id: fact for fact in world.build_facts(0)}
    for identifier, fact in facts.items():
        stating = set(demo.truth["facts"].get(identifier, []))
        assert (fact.group == "unstated") == (not stating)
        for record in demo.records:
            if record["source"] == "encyclopedia" and fact.subject.lower() in _words(record["text"]):
                assert (record["id"] in stating) == (identifier in record["facts"])
        assert all({fact.subject.lower(), fact.answer.lower()} <= _words(by_id[record]["text"]) for record in stating)


def test_each_encyclopedia_record_states_its_fact_and_no_other(demo):
    facts = world.build_facts(0)
    subjects = {fact.subject.lower() for fact in facts}
    answers = {fact.answer.lower() for fact in facts}
    for record in demo.records:
        if record["source"] == "encyclopedia" and record["format"] != "reading":
            (fact,) = [fact for fact in facts if fact.id in record["facts"]]
            assert _words(record["text"]) & subjects == {fact.subject.lower()}
            assert _words(record["text"]) & answers == {fact.answer.lower()}


def test_reading_exercises_are_about_places_outside_the_world(demo):
    inside = {name.lower() for fact in world.build_facts(0) for name in (fact.subject,)}
    reading = [record for record in demo.records if record["format"] == "reading"]
    assert reading and not any(_words(record["text"]) & inside or record["facts"] for record in reading)


def test_facts_that_are_asked_are_stated_in_words_other_than_the_query(demo, by_id):
    for query in demo.queries:
        if query["kind"] == "factual":
            texts = [by_id[record]["text"] for record in demo.truth["facts"][query["fact"]]]
            other = [text for text in texts if query["prompt"] not in text]
            assert len(set(texts)) == len(texts)
            assert len(other) == 8 if len(texts) == 10 else other == texts


def test_facts_are_stated_often_or_rarely(demo):
    asked = [len(demo.truth["facts"][query["fact"]]) for query in demo.queries if query["kind"] == "factual"]
    assert sum(count >= 8 for count in asked) >= 20
    assert sum(count <= 2 for count in asked) >= 20


def test_controls_hold_their_answer_and_others_do_not(demo):
    for query in demo.queries:
        stands_there = query["answer"].lower() in _words(query["prompt"])
        if query["kind"] == "control":
            assert stands_there
        if query["kind"] == "factual":
            assert not stands_there


def test_truth_knows_the_procedure_of_every_record(demo):
    assert set(demo.truth["procedures"]) == {record["id"] for record in demo.records}
    assert set(demo.truth["procedures"].values()) == {*problems.TASKS, "none"}


def test_standard_library_texts_are_real_and_free_of_persons(demo):
    code = [record["text"] for record in demo.records if record["source"] == "python_code"]
    prose = [record["text"] for record in demo.records if record["source"] == "python_prose"]
    assert all(re.search(r"^(async )?def \w+", text, re.MULTILINE) for text in code)
    assert all(text.endswith(".") for text in prose)
    assert not any(word in text.lower() for text in code + prose for word in standard_library.UNWANTED)


def test_the_study_fits_what_is_written():
    study = StudySpec.model_validate(yaml.safe_load(generate.STUDY.read_text()))
    assert study.model.train.context >= study.corpus.max_tokens
    assert study.corpus.fields.id == "id" and study.corpus.end_of_text
