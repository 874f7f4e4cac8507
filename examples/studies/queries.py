"""Candidate queries in the paper's formats: `python -m examples.studies.queries OUT.jsonl --model olmo2-1b --seed 0`.

The paper (Ruis et al. 2024, arXiv 2411.12580) asks each model 40 reasoning questions of two kinds, which it answers
rightly at least four times in five, 40 factual ones, of which it answers about half rightly, and 10 controls of each
kind that look the same but hold their answer. What a model can do is known only once it has been asked, so this
writes more than are needed, and `examples.studies.keep` chooses among them.

From the paper are the three tasks with whole-number answers (x above 0), zero-shot with "Think step-by-step.", the
words "Calculate the answer:", and two forms of control: a planet that does not exist, whose tallest mountain is told,
and a line whose slope is told. Ours are the other wordings, the ranges of the numbers (`reasoning.py`), the table of
facts (`facts.py`), and controls that repeat the numbers of a problem, so that they look more like it than the paper's.

Same arguments, same file.
"""

from __future__ import annotations

import argparse
import json
import random
import re
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from examples.studies.facts import RELATIONS, Fact, all_facts, relation_of
from examples.studies.reasoning import TASKS, THINK, Problem, draw_problems

PER_TASK = 60  # candidates; the paper's sets hold 20
CONTROLS_PER_TASK = 10  # candidates; the paper's sets hold 10 reasoning controls in all
CONTROLS_PER_RELATION = 3  # likewise 10 factual ones

CHATS = {
    "none": "{prompt}",
    # The format of OLMo 2's fine-tuned models, from their model cards; <|endoftext|> begins a text there.
    "olmo2": "<|endoftext|><|user|>\n{prompt}\n<|assistant|>\n",
}

SYLLABLES = "bra dol fen gar hul kir lom mav nor pel rud sil tov vek wim zan".split()


@dataclass(frozen=True)
class Asked:
    """What one model is asked: its two kinds of reasoning, and the chat format that it was fine-tuned on."""

    tasks: tuple[str, ...]
    chat: str


# As in the paper: the small model adds and multiplies, the large one solves equations, and both find slopes.
MODELS = {
    "olmo2-1b": Asked(("arithmetic", "slope"), "olmo2"),
    "olmo2-7b": Asked(("slope", "equation"), "olmo2"),
}


def candidates(tasks: Sequence[str], seed: int, *, per_task: int = PER_TASK, chat: str = "none") -> list[dict]:
    """Reasoning, factual and control queries, each a row of a query file."""
    problems = {task: draw_problems(task, per_task + CONTROLS_PER_TASK, seed) for task in tasks}
    rows = [
        *(_reasoning(number, problem) for task in tasks for number, problem in enumerate(problems[task][:per_task])),
        *_factual(seed),
        *_factual_controls(seed),
        *(
            _reasoning_control(number, problem)
            for task in tasks
            for number, problem in enumerate(problems[task][per_task:])
        ),
    ]
    return [row | {"prompt": CHATS[chat].format(prompt=row["prompt"])} for row in rows]


def _reasoning(number: int, problem: Problem) -> dict:
    row = _row(f"{problem.task}-{number:02d}", problem.prompt, problem.task, "reasoning", str(problem.answer), "ends")
    return row | {"step_answers": list(problem.steps)}


def _reasoning_control(number: int, problem: Problem) -> dict:
    identifier = f"control-{problem.task}-{number:02d}"
    return _row(identifier, f"{problem.stated} {THINK}", problem.task, "control", str(problem.answer), "contains")


def _factual(seed: int) -> list[dict]:
    """Every fact of the table, in an order that the seed gives."""
    facts = all_facts()
    random.Random(f"{seed}:facts").shuffle(facts)
    return [_row(_fact_id(fact), _question(fact), fact.relation, "factual", fact.answer, "contains") for fact in facts]


def _factual_controls(seed: int) -> list[dict]:
    """Facts about what does not exist: told, then asked, so that there is nothing to recall."""
    rng = random.Random(f"{seed}:controls")
    names = _invented_names(rng, 2 * len(RELATIONS) * CONTROLS_PER_RELATION)
    rows = []
    for relation in RELATIONS:
        for number in range(CONTROLS_PER_RELATION):
            place, name = names.pop(), names.pop()
            letter, year = "aejkqwxyz"[rng.randrange(9)], rng.randint(1100, 1900)
            subject = relation.subject.format(place=place, letter=letter)
            answer = relation.answer.format(name=name, year=year)
            fact = Fact(relation.name, subject, answer)
            stated = relation.statement.format(s=subject, o=answer, place=place)
            prompt = f"{stated} {_question(fact)}"
            rows.append(_row(f"control-{relation.name}-{number}", prompt, relation.name, "control", answer, "contains"))
    return rows


def _question(fact: Fact) -> str:
    return relation_of(fact.relation).question.format(s=fact.subject)


def _invented_names(rng: random.Random, count: int) -> list[str]:
    """Names of three syllables, which no fact of the table has."""
    names: set[str] = set()
    known = " ".join(f"{fact.subject} {fact.answer}".lower() for fact in all_facts())
    while len(names) < count:
        name = "".join(rng.choice(SYLLABLES) for _ in range(3)).capitalize()
        if name.lower() not in known:
            names.add(name)
    return sorted(names, key=lambda name: rng.random())


def _fact_id(fact: Fact) -> str:
    return f"{fact.relation}-{re.sub('[^a-z0-9]+', '-', fact.subject.lower()).strip('-')}"


def _row(identifier: str, prompt: str, task: str, kind: str, answer: str, match: str) -> dict:
    return {"id": identifier, "prompt": prompt, "task": task, "kind": kind, "answer": answer, "match": match}


def write(rows: Sequence[dict], path: Path) -> None:
    """A JSON Lines file; one that is there is replaced."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m examples.studies.queries", description=__doc__.split("\n")[0])
    parser.add_argument("out", type=Path, metavar="OUT.jsonl")
    which = parser.add_mutually_exclusive_group(required=True)
    which.add_argument("--model", choices=sorted(MODELS), help="the two reasoning tasks and the chat format of a model")
    which.add_argument("--all", action="store_true", help="all three reasoning tasks, for any other model")
    parser.add_argument(
        "--chat", choices=sorted(CHATS), help="chat format of the prompts (default: the model's, or none)"
    )
    parser.add_argument("--per-task", type=int, default=PER_TASK, help="candidates per reasoning task (default: 60)")
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args(arguments)
    asked = MODELS.get(given.model, Asked(tuple(TASKS), "none"))
    rows = candidates(asked.tasks, given.seed, per_task=given.per_task, chat=given.chat or asked.chat)
    write(rows, given.out)
    print(f"wrote {len(rows)} candidate queries to {given.out}", file=sys.stderr)
    return 0


if __name__ == "__main__":
    sys.exit(main())
