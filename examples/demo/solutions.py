"""Worked solutions in words: each task as steps, as prose and as code, in several wordings of each.

Whatever the wording, an elementary step is spelled the same way (`6 * 15 = 90`), so that what a model learns of it in
one document serves in another. A query is the first line of the first wording in steps; its completion is the rest.

The second point's coordinates have names of their own, (x 1, y 2) and (X 3, Y 4), and a step first repeats the
names that it needs: a number is then found by the word before it, the simplest thing that a small model learns. With
bare points it took the wrong number in 4 of 10 queries after one run and in none after another.
"""

from __future__ import annotations

from examples.demo.problems import Problem

FORMATS = ("steps", "prose", "code")


def solve(problem: Problem) -> dict[str, int | str]:
    """The names that the wordings below use."""
    if problem.task == "arithmetic":
        a, b, c = problem.numbers
        inner = a + b if problem.operator == "+" else a - b
        words = {"+": ("add", "sum"), "-": ("subtract", "difference")}[problem.operator]
        return {
            "a": a,
            "b": b,
            "c": c,
            "op": problem.operator,
            "s": inner,
            "r": problem.answer,
            "verb": words[0],
            "noun": words[1],
        }
    if problem.task == "slope":
        a, b, c, d = problem.numbers
        return {"a": a, "b": b, "c": c, "d": d, "rise": d - b, "run": c - a, "r": problem.answer}
    a, b, c = problem.numbers
    return {"a": a, "b": b, "c": c, "s": a * problem.answer, "r": problem.answer}


WORDINGS: dict[tuple[str, str], tuple[str, ...]] = {
    ("arithmetic", "steps"): (
        "Calculate ({a} {op} {b}) * {c}. Think step-by-step.\n{a} {op} {b} = {s}\n{s} * {c} = {r}\nThe answer is {r}",
        "Exercise: evaluate ({a} {op} {b}) * {c}\nBrackets first: {a} {op} {b} = {s}\nThen the product: "
        "{s} * {c} = {r}\nResult: {r}",
    ),
    ("arithmetic", "prose"): (
        "To work out ({a} {op} {b}) * {c}, first {verb} inside the brackets: {a} {op} {b} = {s}. Then "
        "multiply by {c}: {s} * {c} = {r}. So the value is {r}.",
        "In ({a} {op} {b}) * {c} the {noun} comes first, {a} {op} {b} = {s}, and the product after it, "
        "{s} * {c} = {r}.",
    ),
    ("arithmetic", "code"): (
        "inner = {a} {op} {b}  # {a} {op} {b} = {s}\nresult = inner * {c}  # {s} * {c} = {r}\nassert result == {r}",
        ">>> ({a} {op} {b}) * {c}  # {a} {op} {b} = {s}, {s} * {c} = {r}\n{r}",
    ),
    ("slope", "steps"): (
        "What is the slope of the line through (x {a}, y {b}) and (X {c}, Y {d})? Think step-by-step.\n"
        "Y {d}, y {b}: {d} - {b} = {rise}\nX {c}, x {a}: {c} - {a} = {run}\n{rise} / {run} = {r}\nThe answer is {r}",
        "Exercise: slope through (x {a}, y {b}) and (X {c}, Y {d})\nRise from Y {d}, y {b}: {d} - {b} = {rise}\n"
        "Run from X {c}, x {a}: {c} - {a} = {run}\nSlope: {rise} / {run} = {r}",
    ),
    ("slope", "prose"): (
        "The line through (x {a}, y {b}) and (X {c}, Y {d}) rises, with Y {d}, y {b}: {d} - {b} = {rise} and runs, "
        "with X {c}, x {a}: {c} - {a} = {run}, so its slope is {rise} / {run} = {r}.",
        "From (x {a}, y {b}) to (X {c}, Y {d}) the height changes by Y {d}, y {b}: {d} - {b} = {rise} over "
        "X {c}, x {a}: {c} - {a} = {run}. The slope is {rise} / {run} = {r}.",
    ),
    ("slope", "code"): (
        "p, q = Point({a}, {b}), Point({c}, {d})  # x {a}, y {b}, X {c}, Y {d}\n"
        "rise = q.y - p.y  # Y {d}, y {b}: {d} - {b} = {rise}\n"
        "run = q.x - p.x  # X {c}, x {a}: {c} - {a} = {run}\nslope = rise / run  # {rise} / {run} = {r}",
        ">>> slope(({a}, {b}), ({c}, {d}))  # x {a}, y {b}, X {c}, Y {d}\n"
        "# Y {d}, y {b}: {d} - {b} = {rise}\n# X {c}, x {a}: {c} - {a} = {run}\n# {rise} / {run} = {r}\n{r}",
    ),
    ("equation", "steps"): (
        "Solve {a}x + {b} = {c} for x. Think step-by-step.\n{c} - {b} = {s}\n{a}x = {s}\n{s} / {a} = {r}\n"
        "The answer is {r}",
        "Exercise: find x in {a}x + {b} = {c}\nSubtract {b}: {c} - {b} = {s}\nSo {a}x = {s}\n"
        "Divide by {a}: {s} / {a} = {r}",
    ),
    ("equation", "prose"): (
        "If {a}x + {b} = {c}, then {c} - {b} = {s} gives {a}x = {s}, and x is {s} / {a} = {r}.",
        "To solve {a}x + {b} = {c}, move the {b} to the other side, {c} - {b} = {s}, so that {a}x = {s}, "
        "and divide both sides, {s} / {a} = {r}.",
    ),
    ("equation", "code"): (
        "a, b, c = {a}, {b}, {c}  # {a}x + {b} = {c}\nax = c - b  # {c} - {b} = {s}, {a}x = {s}\n"
        "x = ax / a  # {s} / {a} = {r}",
        '>>> solve("{a}x + {b} = {c}")  # {c} - {b} = {s}, {a}x = {s}, {s} / {a} = {r}\n{r}',
    ),
}


def worked(problem: Problem, form: str, variant: int) -> str:
    """The problem with its solution, in one of the wordings of a format."""
    wordings = WORDINGS[problem.task, form]
    return wordings[variant % len(wordings)].format(**solve(problem))


def question(problem: Problem) -> tuple[str, str]:
    """Prompt and right completion of a query."""
    prompt, _, completion = worked(problem, "steps", 0).partition("\n")
    return prompt, "\n" + completion
