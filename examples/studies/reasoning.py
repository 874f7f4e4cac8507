"""The paper's three reasoning tasks: problems with whole-number answers, drawn by seed, with every step of a solution.

The ranges are ours; they hold the examples that the paper shows: (4 + 2) * 15, points with coordinates up to 100 and
negative slopes among the whole-number ones, 8x + 16 = 32 with a positive x.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass

THINK = "Think step-by-step."


@dataclass(frozen=True)
class Problem:
    """One problem: how it is asked, its answer, the equation of each step, and the same with the answer told."""

    task: str
    question: str
    answer: int
    steps: tuple[str, ...]  # "4 + 2 = 6": the last one gives the answer
    stated: str  # for a control: what is asked, with its answer

    @property
    def prompt(self) -> str:
        return f"{self.question} {THINK}"


def draw_problems(task: str, count: int, seed: int) -> list[Problem]:
    """Different problems of a task, as many as asked for; the first ones are the same whatever the count."""
    rng = random.Random(f"{seed}:{task}")
    problems: dict[str, Problem] = {}
    while len(problems) < count:
        problem = TASKS[task](rng)
        problems.setdefault(problem.question, problem)
    return list(problems.values())


def _arithmetic(rng: random.Random) -> Problem:
    """The paper: "Calculate the answer: (7 - 4) * 7 Think step-by-step."."""
    a, b, c, sign = rng.randint(2, 12), rng.randint(1, 12), rng.randint(2, 20), rng.choice("+-")
    if sign == "-" and a <= b:
        a, b = b + 1, a
    inner = a + b if sign == "+" else a - b
    expression = f"({a} {sign} {b}) * {c}"
    return Problem(
        "arithmetic",
        f"Calculate the answer: {expression}",
        inner * c,
        (f"{a} {sign} {b} = {inner}", f"{inner} * {c} = {inner * c}"),
        f"The answer to {expression} is {inner * c}. What is the answer?",
    )


def _slope(rng: random.Random) -> Problem:
    """The paper shows points such as (93, 28) and (74, 47); the sentence around them is ours."""
    slope = rng.choice([value for value in range(-12, 13) if abs(value) > 1])
    run = rng.choice([-1, 1]) * rng.randint(2, 96 // abs(slope))
    rise = slope * run
    x1, y1 = (rng.randint(max(0, -step), 100 - max(0, step)) for step in (run, rise))
    x2, y2 = x1 + run, y1 + rise
    line = f"the line that passes through the points ({x1}, {y1}) and ({x2}, {y2})"
    return Problem(
        "slope",
        f"What is the slope of {line}?",
        slope,
        (f"{y2} - {y1} = {rise}", f"{x2} - {x1} = {run}", f"{rise} / {run} = {slope}"),
        f"The slope of {line} is {slope}. What is the slope of the line?",
    )


def _equation(rng: random.Random) -> Problem:
    """The paper shows equations such as 5x + 21 = 91, with x above 0; the words before them are ours."""
    a, x, b = rng.randint(2, 12), rng.randint(1, 20), rng.randint(1, 60)
    c = a * x + b
    return Problem(
        "equation",
        f"Solve for x: {a}x + {b} = {c}",
        x,
        (f"{c} - {b} = {c - b}", f"{c - b} / {a} = {x}"),
        f"The solution of {a}x + {b} = {c} is x = {x}. What is x?",
    )


TASKS: dict[str, Callable[[random.Random], Problem]] = {
    "arithmetic": _arithmetic,
    "slope": _slope,
    "equation": _equation,
}
