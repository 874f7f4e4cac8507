"""The demo's rules against its truth: what they know of a document is its text alone."""

from __future__ import annotations

import pytest

from assets.findings.document_rules import Agreement, agreement, read_rules
from assets.findings.matching import AnswerMatcher, sought_parts
from examples.demo import generate, problems, world


@pytest.fixture(scope="module")
def rules():
    return read_rules(generate.RULES)


@pytest.fixture(scope="module")
def demo():
    return generate.build()


def truth_of(demo: generate.Demo) -> dict[str, set[str]]:
    """By task, the records that work through its procedure or state a fact of its relation."""
    relations = {fact.id: fact.relation for seed in (0, 1) for fact in world.build_facts(seed)}
    truth: dict[str, set[str]] = {}
    for record in demo.records:
        if record["procedure"] != generate.NO_PROCEDURE:
            truth.setdefault(record["procedure"], set()).add(record["id"])
        for fact in record["facts"]:
            truth.setdefault(relations[fact], set()).add(record["id"])
    return truth


def agreements(rules, demo: generate.Demo) -> dict[str, Agreement]:
    texts = {record["id"]: record["text"] for record in demo.records}
    return {one.task: one for one in agreement(rules, texts, truth_of(demo))}


@pytest.mark.parametrize("seed", [0, 1])
def test_rules_agree_with_the_truth(rules, demo, seed):
    """Also where names, numbers and the choice of wordings are others than those that the rules were written by."""
    found = agreements(rules, demo if seed == 0 else generate.build(generate.DemoSettings(seed=seed)))
    assert set(found) == {*problems.TASKS, *(relation.name for relation in world.RELATIONS)}
    for task, one in found.items():
        assert one.documents > 40
        assert one.precision > 0.95 and one.recall > 0.95, (task, one)


def test_worked_examples_are_told_from_code(rules, demo):
    for record in demo.records:
        if record["procedure"] != generate.NO_PROCEDURE:
            found = rules.classify(record["text"])[record["procedure"]]
            assert found.kind == ("code" if record["format"] == "code" else "worked_example"), record["text"]


def test_no_other_text_of_mathematics_or_python_is_taken_for_a_procedure(rules, demo):
    others = [record for record in demo.records if record["source"] in ("mathematics", "python_code", "python_prose")]
    found = [rules.classify(record["text"]) for record in others]
    assert others and not any(kinds[task] for kinds in found for task in problems.TASKS)


def test_each_step_of_a_query_stands_in_some_document_and_its_answer_is_the_last(demo):
    asked = [{**query, "query_id": query["id"]} for query in demo.queries]
    matcher = AnswerMatcher(sought for query in asked for sought in sought_parts(query))
    exact = {
        (hit.query_id, hit.part)
        for record in demo.records
        for hit in matcher.find(record["text"])
        if hit.match == "exact"
    }
    asked = [query for query in demo.queries if query["kind"] == "reasoning"]
    for query in asked:
        steps = query["step_answers"]
        assert len(steps) == (3 if query["task"] == "slope" else 2)
        assert steps[-1].endswith(f"= {query['answer']}")
        assert {(query["id"], f"step {number}") for number in range(1, len(steps) + 1)} <= exact
    assert all(query["step_answers"] for query in demo.queries if query["kind"] == "control" and "=" in query["prompt"])
    assert not any(query["step_answers"] for query in demo.queries if query["kind"] == "factual")


def test_a_fact_is_found_in_every_document_that_states_it(demo):
    facts = [query for query in demo.queries if query["kind"] == "factual"]
    sought = [{**query, "query_id": query["id"]} for query in facts]
    matcher = AnswerMatcher(one for query in sought for one in sought_parts(query))
    texts = {record["id"]: record["text"] for record in demo.records}
    for query in facts:
        for record in demo.truth["facts"][query["fact"]]:
            assert query["id"] in {hit.query_id for hit in matcher.find(texts[record])}
