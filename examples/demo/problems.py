"""The reasoning problems: which numbers they use, and which combinations are held out for the queries.

Ranges are small on purpose. A worked solution is a chain of elementary steps (`4 + 2 = 6`), and each step a query
needs occurs in documents, in other combinations; the combination itself occurs in none, in no order of its numbers.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass

TASKS = ("arithmetic", "slope", "equation")
HELD_OUT_SHARE = 0.15  # of the distinct combinations of each task


@dataclass(frozen=True)
class Problem:
    """One exercise: its numbers as they stand in the question, and the whole number that answers it."""

    task: str  # arithmetic: (a op b) * c · slope: through (a, b) and (c, d) · equation: ax op b = c
    numbers: tuple[int, ...]
    operator: str  # "+" or "-" inside the question; "" for slopes
    answer: int

    @property
    def combination(self) -> tuple[int, ...]:
        """The numbers without their order: what a held-out problem must not share with any document."""
        return tuple(sorted(self.numbers))


def all_problems(task: str) -> list[Problem]:
    """Every problem of the task within its ranges, in a fixed order."""
    return list({"arithmetic": _arithmetic, "slope": _slopes, "equation": _equations}[task]())


def split(task: str, seed: int) -> tuple[list[Problem], list[Problem]]:
    """Problems for documents and problems for queries, each shuffled; no combination of numbers is in both."""
    problems = all_problems(task)
    combinations = sorted({problem.combination for problem in problems})
    rng = random.Random(f"{seed}:{task}:split")
    held_out = set(rng.sample(combinations, round(HELD_OUT_SHARE * len(combinations))))
    documents = [problem for problem in problems if problem.combination not in held_out]
    queries = [problem for problem in problems if problem.combination in held_out]
    rng.shuffle(documents)
    rng.shuffle(queries)
    return documents, queries


def _arithmetic() -> Iterator[Problem]:
    for a in range(1, 11):
        for b in range(1, 11):
            for c in range(2, 11):
                yield Problem("arithmetic", (a, b, c), "+", (a + b) * c)
                if a > b:
                    yield Problem("arithmetic", (a, b, c), "-", (a - b) * c)


def _slopes() -> Iterator[Problem]:
    for x1 in range(0, 7):
        for y1 in range(0, 9):
            for run in range(1, 6):
                for slope in range(1, 6):
                    if run * slope <= 20:
                        yield Problem("slope", (x1, y1, x1 + run, y1 + run * slope), "", slope)


def _equations() -> Iterator[Problem]:
    for a in range(2, 10):
        for x in range(1, 10):
            for b in range(1, 7):
                yield Problem("equation", (a, b, a * x + b), "+", x)
