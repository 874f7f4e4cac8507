"""Text of documents and names as a page can show it: nothing in it may hide, turn a line around or end the page.

Markup is escaped by the templates. What is left are characters that a browser obeys or leaves out: controls, marks of
direction, invisible ones, halves of surrogate pairs. They are shown as signs.
"""

from __future__ import annotations

import re

from markupsafe import Markup

JOINERS = "\u200c\u200d"  # invisible too, but words of several scripts and emoji need them
HIDDEN = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\u00ad\u034f\u061c\u115f\u1160\u17b4\u17b5\u180e\u200b\u200e\u200f\u2028-\u202e"
    "\u2060-\u206f\u3164\ufe00-\ufe0e\ufeff\uffa0\ufff0-\ufffb\ufffe\uffff\ud800-\udfff\U000e0000-\U000e0fff]"
)


def visible(text: str) -> str:
    """The text with a sign in place of each character that would not be seen or that a browser would obey."""
    return HIDDEN.sub(_sign, text)


def shown(value: object) -> object:
    """What a template puts out for a value (Jinja's `finalize`); markup of our own passes as it is."""
    if isinstance(value, Markup):
        return value
    return "" if value is None else visible(str(value))


def _sign(match: re.Match[str]) -> str:
    code = ord(match[0])
    if code < 0x20:
        return chr(0x2400 + code)  # ␀ … ␟
    if code == 0x7F:
        return "␡"
    return "\ufffd" if 0xD800 <= code <= 0xDFFF else f"⟨U+{code:04X}⟩"
