"""Writes the demo: `python -m examples.demo.generate OUTDIR`.

    OUTDIR/corpus/*.jsonl[.gz]   records: id, text, source, procedure, facts, format
    OUTDIR/queries.jsonl         id, prompt, task, kind, answer, step_answers, fact (no completion: the model's own)
    OUTDIR/truth.json            which records state a fact, and which procedure a record works through
    OUTDIR/demo.yaml             the study
    OUTDIR/document_rules.yaml   how it tells a document's kind

Same seed and Python version, same files.
"""

from __future__ import annotations

import gzip
import json
import operator
import re
import shutil
import sys
from dataclasses import dataclass
from pathlib import Path

from examples.demo import mathematics, problems, solutions, standard_library, world
from examples.demo.problems import Problem

STUDY = Path(__file__).with_name("demo.yaml")
RULES = Path(__file__).with_name("document_rules.yaml")
SOURCES = {"arithmetic": "arithmetic", "slope": "slopes", "equation": "equations"}
COMPRESSED = {"python_code"}  # written as .jsonl.gz
NO_PROCEDURE = "none"
RESULTS = {"+": operator.add, "-": operator.sub, "*": operator.mul, "/": operator.floordiv}


@dataclass(frozen=True, kw_only=True)
class DemoSettings:
    """How much to generate; the defaults are the demo."""

    seed: int = 0
    records_per_task: int = 1080  # worked problems of each reasoning task
    reading: int = 300  # exercises in copying an answer that was just given
    mathematics: int = 180
    python_code: int = 200
    python_prose: int = 200
    reasoning_queries: int = 10  # per task
    factual_controls: int = 7
    reasoning_controls: int = 9


@dataclass(frozen=True)
class Demo:
    records: list[dict]
    queries: list[dict]
    truth: dict


def build(settings: DemoSettings = DemoSettings()) -> Demo:
    """Records, queries and truth; nothing is written."""
    facts = world.build_facts(settings.seed)
    records = [record for task in problems.TASKS for record in _worked_records(task, settings)]
    reading = world.reading_documents(facts, settings.reading, settings.seed)
    records += _records("encyclopedia", world.fact_documents(facts, settings.seed) + reading)
    records += _records("mathematics", mathematics.mathematics_documents(settings.mathematics, settings.seed))
    records += _records("python_code", standard_library.code_documents(settings.python_code, settings.seed))
    records += _records("python_prose", standard_library.prose_documents(settings.python_prose, settings.seed))
    unspelled = {task: _unspelled(held_out(task, settings), records) for task in problems.TASKS}
    queries = [
        *_factual_queries(facts),
        *_reasoning_queries(unspelled, settings),
        *_controls(facts, unspelled, settings),
    ]
    return Demo(records, queries, _truth(records))


def held_out(task: str, settings: DemoSettings = DemoSettings()) -> list[Problem]:
    """All problems whose combination of numbers no document works through; the queries are among the first."""
    return problems.split(task, settings.seed)[1]


def write(demo: Demo, directory: Path) -> None:
    """Write the files; a file that is there is replaced."""
    corpus = directory / "corpus"
    corpus.mkdir(parents=True, exist_ok=True)
    for source in dict.fromkeys(record["source"] for record in demo.records):
        lines = _lines([record for record in demo.records if record["source"] == source])
        if source in COMPRESSED:
            (corpus / f"{source}.jsonl.gz").write_bytes(gzip.compress(lines, mtime=0))
        else:
            (corpus / f"{source}.jsonl").write_bytes(lines)
    (directory / "queries.jsonl").write_bytes(_lines(demo.queries))
    (directory / "truth.json").write_text(json.dumps(demo.truth, indent=1) + "\n", encoding="utf-8")
    for file in (STUDY, RULES):
        if file.resolve() != (directory / file.name).resolve():
            shutil.copyfile(file, directory / file.name)


def _worked_records(task: str, settings: DemoSettings) -> list[dict]:
    """Problems in turn as steps, prose and code; where they run out, again in the next format and wording."""
    pool, _ = problems.split(task, settings.seed)
    records = []
    for number in range(settings.records_per_task):
        problem, lap = pool[number % len(pool)], number // len(pool)
        form = solutions.FORMATS[(number + lap) % len(solutions.FORMATS)]
        variant = number // len(solutions.FORMATS) + lap
        records.append(
            {
                "text": solutions.worked(problem, form, variant),
                "procedure": task,
                "format": form,
                "numbers": list(problem.numbers),
            }
        )
    return _records(SOURCES[task], records)


def _records(source: str, parts: list[dict]) -> list[dict]:
    return [
        {
            "id": f"{source}-{number:04d}",
            "text": part["text"],
            "source": source,
            "procedure": part.get("procedure", NO_PROCEDURE),
            "facts": part.get("facts", []),
            "format": part.get("format", "text"),
            "numbers": part.get("numbers", []),
        }
        for number, part in enumerate(parts)
    ]


def _factual_queries(facts: list[world.Fact]) -> list[dict]:
    return [
        _query(
            f"fact-{fact.id}",
            world.question(fact)[0],
            task=fact.relation,
            kind="factual",
            answer=fact.answer,
            fact=fact.id,
        )
        for fact in facts
        if fact.group in ("often", "rare")
    ]


def _unspelled(held_out: list[Problem], records: list[dict]) -> list[Problem]:
    """Those whose numbers do not even follow upon each other by chance, in the steps of some other problem."""
    size = len(held_out[0].numbers)
    rows = set()
    for record in records:
        numbers = [int(number) for number in re.findall("[0-9]{1,4}", record["text"])]
        rows.update(tuple(numbers[start : start + size]) for start in range(len(numbers) - size + 1))
    return [problem for problem in held_out if problem.numbers not in rows]


def _reasoning_queries(unspelled: dict[str, list[Problem]], settings: DemoSettings) -> list[dict]:
    return [
        _query(
            f"{task}-{number:02d}",
            solutions.question(problem)[0],
            task=task,
            kind="reasoning",
            answer=str(problem.answer),
            steps=_step_answers(problem),
        )
        for task in problems.TASKS
        for number, problem in enumerate(unspelled[task][: settings.reasoning_queries])
    ]


def _controls(facts: list[world.Fact], unspelled: dict[str, list[Problem]], settings: DemoSettings) -> list[dict]:
    """Questions of both kinds whose answer stands in the prompt already."""
    unstated = [fact for fact in facts if fact.group == "unstated"][: settings.factual_controls]
    controls = [
        _query(
            f"control-{fact.id}", world.stated_question(fact), task=fact.relation, kind="control", answer=fact.answer
        )
        for fact in unstated
    ]
    per_task = settings.reasoning_controls // len(problems.TASKS)
    for task in problems.TASKS:
        chosen = unspelled[task][settings.reasoning_queries :][:per_task]
        for number, problem in enumerate(chosen):
            prompt, completion = solutions.question(problem)
            solved = prompt + completion.removesuffix(f" {problem.answer}")
            controls.append(
                _query(
                    f"control-{task}-{number:02d}",
                    solved,
                    task=task,
                    kind="control",
                    answer=str(problem.answer),
                    steps=_step_answers(problem),
                )
            )
    return controls


def _step_answers(problem: Problem) -> tuple[str, ...]:
    """Each step with its result, as documents spell it; a bare result such as 6 would stand everywhere by chance."""
    return tuple(f"{left} {sign} {right} = {RESULTS[sign](left, right)}" for left, sign, right in problem.steps)


def _query(
    identifier: str,
    prompt: str,
    *,
    task: str,
    kind: str,
    answer: str,
    fact: str | None = None,
    steps: tuple[str, ...] = (),
) -> dict:
    return {
        "id": identifier,
        "prompt": prompt,
        "task": task,
        "kind": kind,
        "answer": answer,
        "step_answers": list(steps),
        "fact": fact,
    }


def _truth(records: list[dict]) -> dict:
    """Fact id → records that state it; record id → procedure."""
    facts: dict[str, list[str]] = {}
    for record in records:
        for fact in record["facts"]:
            facts.setdefault(fact, []).append(record["id"])
    return {"facts": facts, "procedures": {record["id"]: record["procedure"] for record in records}}


def _lines(rows: list[dict]) -> bytes:
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows).encode()


def main(arguments: list[str]) -> int:
    if len(arguments) != 1:
        print("usage: python -m examples.demo.generate OUTDIR", file=sys.stderr)
        return 2
    demo = build()
    write(demo, Path(arguments[0]))
    print(f"wrote {len(demo.records)} records and {len(demo.queries)} queries to {arguments[0]}", file=sys.stderr)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
