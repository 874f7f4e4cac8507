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
    pattern = r"(?<![\w.,-])" + r"\W+".join(re.escape(part) for part in parts) + r"(?!\w|[.,]\d)"
    found = re.search(pattern, text, re.IGNORECASE) or re.search(pattern.replace(".,-", "", 1), text, re.IGNORECASE)
    return found.span() if found else None
