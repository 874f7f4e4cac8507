"""Whether a completion gives the right answer, by words and not by spelling."""

from __future__ import annotations

import re

WORD = re.compile(r"[^\W\d]+|(?<![\w.])-?\d+(?:[.,]\d+)*|\d+(?:[.,]\d+)*")


def is_right(completion: str, answer: str | None, *, kind: str | None, match: str | None) -> bool | None:
    """Whether `answer` stands in (`contains`) or at the end of (`ends`) the completion; None where no answer is known.

    Without `match`, a reasoning query's answer must stand at the end, after its steps, and any other's anywhere.
    Case, punctuation and spacing do not count; a number counts as a whole, so 7 is not in 17.
    """
    if answer is None:
        return None
    given, expected = words(completion), words(answer)
    match = match or ("ends" if kind == "reasoning" else "contains")
    if not expected or len(expected) > len(given):
        return False
    starts = [len(given) - len(expected)] if match == "ends" else range(len(given) - len(expected) + 1)
    return any(given[start : start + len(expected)] == expected for start in starts)


def words(text: str) -> list[str]:
    """Words and numbers, with a number's sign and decimals; case does not count."""
    return WORD.findall(text.casefold())
