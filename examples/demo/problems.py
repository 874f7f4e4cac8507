"""The reasoning problems: which numbers they use, and which combinations are held out for the queries.

Ranges are small on purpose. A worked solution is a chain of elementary steps (`4 + 2 = 6`), and each step that a
held-out problem needs is taught by other problems; the combination of its numbers occurs in no document, in any order.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass

TASKS = ("arithmetic", "slope", "equation")
HELD_OUT_SHARE = 0.15  # of the distinct combinations of each task, at most
TAUGHT_BY = 2  # problems left for documents that share a step with a held-out one, at least


@dataclass(frozen=True)
class Problem:
    """One exercise: its numbers as they stand in the question, and the whole number that answers it."""

    task: str  # arithmetic: (a op b) * c · slope: through (a, b) and (c, d) · equation: ax + b = c
    numbers: tuple[int, ...]
    operator: str  # "+" or "-" in arithmetic; "" elsewhere
    answer: int

    @property
    def combination(self) -> tuple[int, ...]:
        """The numbers without their order: what a held-out problem must not share with any document."""
        return tuple(sorted(self.numbers))

    @property
    def steps(self) -> tuple[tuple[int, str, int], ...]:
        """The elementary steps of its solution, without their results."""
        if self.task == "arithmetic":
            a, b, c = self.numbers
            return (a, self.operator, b), (self.answer // c, "*", c)
        if self.task == "slope":
            a, b, c, d = self.numbers
            return (d, "-", b), (c, "-", a), (d - b, "/", c - a)
        a, b, c = self.numbers
        return (c, "-", b), (c - b, "/", a)


def all_problems(task: str) -> list[Problem]:
    """Every problem of the task within its ranges, in a fixed order."""
    return list({"arithmetic": _arithmetic, "slope": _slopes, "equation": _equations}[task]())


def split(task: str, seed: int) -> tuple[list[Problem], list[Problem]]:
    """Problems for documents and problems for queries, each shuffled; no combination of numbers is in both."""
    problems = all_problems(task)
    rng = random.Random(f"{seed}:{task}:split")
    held_out = _held_out(problems, rng)
    documents = [problem for problem in problems if problem.combination not in held_out]
    queries = [problem for problem in problems if problem.combination in held_out]
    rng.shuffle(documents)
    rng.shuffle(queries)
    return documents, queries


def _held_out(problems: list[Problem], rng: random.Random) -> set[tuple[int, ...]]:
    """Combinations drawn one by one; one whose steps would then be taught too rarely is put back."""
    by_combination: dict[tuple[int, ...], list[Problem]] = {}
    for problem in problems:
        by_combination.setdefault(problem.combination, []).append(problem)
    taught_by = Counter(step for problem in problems for step in problem.steps)
    chosen: set[tuple[int, ...]] = set()
    for combination in rng.sample(sorted(by_combination), len(by_combination)):
        taken = Counter(step for problem in by_combination[combination] for step in problem.steps)
        if all(taught_by[step] - count >= TAUGHT_BY for step, count in taken.items()):
            taught_by -= taken
            chosen.add(combination)
        if len(chosen) >= HELD_OUT_SHARE * len(by_combination):
            break
    return chosen


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
            for b in range(1, 6):
                yield Problem("equation", (a, b, a * x + b), "", x)
