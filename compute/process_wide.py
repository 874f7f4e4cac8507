"""Settings of the whole process that passes need while they run, of which several may run at a time."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager


class WhileAny:
    """What the first that needs it sets, and the last sets back: passes may be nested, and in several threads."""

    def __init__(self, begin: Callable[[], Callable[[], None]]) -> None:
        """`begin` sets, and gives what sets back."""
        self._begin, self._lock, self._open = begin, threading.Lock(), 0

    @contextmanager
    def needed(self) -> Iterator[None]:
        with self._lock:
            if not self._open:
                self._end = self._begin()
            self._open += 1
        try:
            yield
        finally:
            with self._lock:
                self._open -= 1
                if not self._open:
                    self._end()
