"""Fingerprints: what a row was computed from, as 16 hexadecimal digits.

A fingerprint is a digest of a stage's code version, its settings and the fingerprints of what it read. Two equal ones
mean the same rows, so a rerun can keep them; it is stored in every row and never depends on times, paths of this
machine or order.
"""

from __future__ import annotations

import hashlib
import json


def fingerprint(*parts: object) -> str:
    """The digest of JSON-able parts."""
    canonical = json.dumps(parts, sort_keys=True, ensure_ascii=False, default=_plain)
    return hashlib.blake2b(canonical.encode(), digest_size=8).hexdigest()


def _plain(value: object) -> object:
    if hasattr(value, "model_dump"):
        return value.model_dump(mode="json")
    raise TypeError(f"a {type(value).__name__} has no place in a fingerprint")
