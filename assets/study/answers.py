"""Whether a completion gives the right answer, by words and not by spelling."""

from __future__ import annotations

import re

MINUS = "\N{MINUS SIGN}"
IN_BRACKETS = re.compile(r"[(\[]-?\d+(?:\.\d+)?(?:,-?\d+(?:\.\d+)?)+[)\]]")
THOUSANDS = re.compile(r".-?\d{1,3}(?:,\d{3})+(?:\.\d+)?.")
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
    """Words and numbers, with a number's sign, be it a hyphen or a minus, and decimals; case does not count.

    A comma between digits is part of a number, as in 1,000 and 3,5. Not so within brackets, as in the point (4,2),
    unless it sets thousands apart there, as in (1,000).
    """
    return WORD.findall(IN_BRACKETS.sub(_apart, text.casefold().replace(MINUS, "-")))


def _apart(numbers: re.Match[str]) -> str:
    return numbers[0] if THOUSANDS.fullmatch(numbers[0]) else numbers[0].replace(",", ", ")
