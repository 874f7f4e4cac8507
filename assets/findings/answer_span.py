"""Where in a document an answer stands."""

from __future__ import annotations

import re


def answer_span(text: str, answer: str | None) -> tuple[int, int] | None:
    """First and last character (exclusive) of the first place at which the answer's words stand in a row; None where
    they do not. Case and what lies between the words do not count, and a number counts as a whole, as in
    `assets.findings.matching`."""
    parts = re.findall(r"\w+", answer or "")
    if not parts:
        return None
    before = r"(?<!\w)" + (r"(?<![-−])(?<!\d[.,])" if parts[0][0].isdigit() else "")
    after = r"(?!\w)" + (r"(?![.,]\d)" if parts[-1][-1].isdigit() else "")
    found = re.search(before + r"\W+".join(map(re.escape, parts)) + after, text, re.IGNORECASE)
    return found.span() if found else None
