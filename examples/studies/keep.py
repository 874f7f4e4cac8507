"""Chooses a study's queries among candidates, by what its model answers:
`python -m examples.studies.keep CANDIDATES.yaml OUT.jsonl --seed 0`.

Has the candidates answered (nothing upstream of `study/<study>/completions` is needed but checkpoints, tokenizer and
queries: no corpus, no curvature), then keeps, as the paper does, the reasoning tasks that are answered rightly at
least four times in five, as many rightly as wrongly answered factual queries, and controls of both that are answered
rightly. Same completions and seed, same file.
"""

from __future__ import annotations

import argparse
import json
import random
import sys
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from assets.specs.study import Study
from compute.errors import BadInput
from examples.studies.queries import write

if TYPE_CHECKING:
    from orchestration.home import Home

ACCURACY = 0.8
KINDS_OF_REASONING = 2
REASONING = 40
FACTUAL = 40
CONTROLS = 10  # of each: factual and reasoning


def choose(candidates: Sequence[dict], is_right: dict[str, bool | None], seed: int, *, study: str) -> list[dict]:
    """The paper's numbers of queries, in the order of the candidates. Raises BadInput where there are too few."""
    unknown = [row["id"] for row in candidates if is_right.get(row["id"]) is None]
    if unknown:
        raise BadInput(f"study {study}: it is not known whether query {unknown[0]} is right; give it an answer")
    rng = random.Random(f"{seed}:keep")
    right = [row for row in candidates if is_right[row["id"]]]
    reasoning = _reasoning(candidates, accuracies(candidates, is_right), rng, study)
    factual = _factual(candidates, is_right, rng, study)
    chosen = [
        *reasoning,
        *factual,
        *_controls("factual", right, factual, rng, study),
        *_controls("reasoning", right, reasoning, rng, study),
    ]
    kept = {row["id"] for row in chosen}
    return [row for row in candidates if row["id"] in kept]


def accuracies(candidates: Iterable[dict], is_right: dict[str, bool | None]) -> dict[str, float]:
    """Share of right answers of each reasoning task."""
    rows = [row for row in candidates if row["kind"] == "reasoning"]
    asked = Counter(row["task"] for row in rows)
    right = Counter(row["task"] for row in rows if is_right[row["id"]])
    return {task: right[task] / count for task, count in asked.items()}


def _reasoning(candidates: Sequence[dict], shares: dict[str, float], rng: random.Random, study: str) -> list[dict]:
    """Right and wrong ones alike, of the tasks that the model can do; of more than two, of the two it does best."""
    good = sorted((task for task, share in shares.items() if share >= ACCURACY), key=lambda task: -shares[task])
    if not good:
        told = ", ".join(f"{task} {share:.0%}" for task, share in shares.items())
        raise BadInput(
            f"study {study}: its model answers no reasoning task rightly {ACCURACY:.0%} of the time ({told}); "
            "ask a larger model, or one that was fine-tuned on such tasks"
        )
    tasks = good[:KINDS_OF_REASONING]
    rows = [row for row in candidates if row["kind"] == "reasoning" and row["task"] in tasks]
    hint = "write more candidates (--per-task)"
    return _enough(_spread(rows, REASONING, rng), REASONING, f"reasoning queries on {' and '.join(tasks)}", hint, study)


def _factual(
    candidates: Sequence[dict], is_right: dict[str, bool | None], rng: random.Random, study: str
) -> list[dict]:
    chosen = []
    for wanted, word in ((True, "rightly"), (False, "wrongly")):
        rows = [row for row in candidates if row["kind"] == "factual" and is_right[row["id"]] == wanted]
        rng.shuffle(rows)
        hint = f"add {'easier' if wanted else 'harder'} facts to examples/studies/facts.py"
        chosen += _enough(rows[: FACTUAL // 2], FACTUAL // 2, f"factual queries answered {word}", hint, study)
    return chosen


def _controls(kind: str, right: Sequence[dict], chosen: Sequence[dict], rng: random.Random, study: str) -> list[dict]:
    """Controls of the tasks of the queries that were chosen, as evenly as there are."""
    tasks = {row["task"] for row in chosen}
    rows = [row for row in right if row["kind"] == "control" and row["task"] in tasks]
    hint = "a model that cannot read an answer off its prompt is no use here"
    return _enough(_spread(rows, CONTROLS, rng), CONTROLS, f"{kind} controls answered rightly", hint, study)


def _spread(rows: Sequence[dict], count: int, rng: random.Random) -> list[dict]:
    """As many of each task as of the others, as far as they go, each task's drawn by chance."""
    by_task: dict[str, list[dict]] = {}
    for row in rng.sample(list(rows), len(rows)):
        by_task.setdefault(row["task"], []).append(row)
    rounds = max(map(len, by_task.values()), default=0)
    turns = [each[turn] for turn in range(rounds) for each in by_task.values() if turn < len(each)]
    return turns[:count]


def _enough(rows: list[dict], needed: int, what: str, hint: str, study: str) -> list[dict]:
    if len(rows) < needed:
        raise BadInput(f"study {study}: there are {len(rows)} {what}, but {needed} are needed; {hint}")
    return rows


def answered(study: Study, home: Home) -> dict[str, bool | None]:
    """Query id → whether the model's own completion is right; what is there for the same inputs is kept."""
    import dagster as dg

    from assets.step.step import REUSE_TAG
    from assets.study.completions import completions_table
    from orchestration.graph import study_assets_once
    from orchestration.resources import resources_of
    from orchestration.run import QUIET, StepFailed

    table, resources = completions_table(study.name), resources_of(home)
    with home.instance() as instance:
        result = dg.materialize(
            study_assets_once([study]),
            selection=dg.AssetSelection.assets(table.asset_key).upstream(),
            instance=instance,
            resources=resources,
            run_config=QUIET,
            tags={REUSE_TAG: "true"},
            raise_on_error=False,
        )
    for event in result.all_events:
        if event.is_step_failure:
            data = event.step_failure_data
            told = data.user_failure_data and data.user_failure_data.description
            raise StepFailed(event.step_key, told or data.error.to_string(), bool(told))
    lake = resources["lake"]
    rows = lake.collect(table, lake.scan(table).select("query_id", "is_right"))
    return dict(rows.iter_rows())


def _candidates(study: Study) -> list[dict]:
    """The rows of the candidates' file, with every field that they have."""
    from assets.corpus.files import resolved

    files = [Path(resolved(path, study.base)) for path in study.spec.queries.path]
    lines = [line for file in files for line in file.read_text(encoding="utf-8").splitlines() if line.strip()]
    return [json.loads(line) for line in lines]


def _report(candidates: Sequence[dict], chosen: Sequence[dict], is_right: dict[str, bool | None]) -> None:
    """What was asked, how much of it was right, and how much of it is kept."""
    print(f"{'kind':10} {'task':10} {'asked':>6} {'right':>6} {'kept':>6}")
    groups = dict.fromkeys((row["kind"], row["task"]) for row in candidates)
    kept = Counter((row["kind"], row["task"]) for row in chosen)
    for kind, task in groups:
        asked = [is_right[row["id"]] for row in candidates if (row["kind"], row["task"]) == (kind, task)]
        print(f"{kind:10} {task:10} {len(asked):6} {sum(asked) / len(asked):6.0%} {kept[kind, task]:6}")


def main(arguments: Sequence[str] | None = None) -> int:
    """Exit status: 0, or 1 after a sentence that says what went wrong."""
    from orchestration.home import Home
    from orchestration.run import StepFailed
    from orchestration.studies import open_study

    parser = argparse.ArgumentParser(prog="python -m examples.studies.keep", description=__doc__.split("\n")[0])
    parser.add_argument("study", type=Path, metavar="CANDIDATES.yaml", help="the study that asks the candidates")
    parser.add_argument("out", type=Path, metavar="OUT.jsonl", help="the queries that are kept")
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args(arguments)
    try:
        home = Home.from_environment().prepare()
        study = open_study(given.study, home)
        is_right = answered(study, home)
        candidates = _candidates(study)
        chosen = choose(candidates, is_right, given.seed, study=study.name)
    except (BadInput, StepFailed) as error:
        print(f"keep: {error.sentence if isinstance(error, StepFailed) else error}", file=sys.stderr)
        return 1
    write(chosen, given.out)
    _report(candidates, chosen, is_right)
    print(f"wrote {len(chosen)} queries to {given.out}", file=sys.stderr)
    return 0


if __name__ == "__main__":
    sys.exit(main())
