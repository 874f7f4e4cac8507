"""Brings search indexes up to date in the background, so that a page never waits for a large corpus."""

from __future__ import annotations

import threading
from pathlib import Path

from compute.errors import BadInput
from orchestration.results import Results
from orchestration.results.search import SearchIndex

PATIENCE = 2.0
"""Seconds for which a request waits: small corpora are indexed within them."""


class Indexing:
    """The indexes that one explorer keeps, each made by one thread at a time."""

    def __init__(self, cache: Path) -> None:
        self.cache = cache
        self._threads: dict[str, threading.Thread] = {}
        self._errors: dict[str, str] = {}
        self._lock = threading.Lock()

    def index(self, results: Results, corpus: str) -> tuple[SearchIndex, int]:
        """The corpus's index, and how many of its shards are not in it yet. Raises BadInput where it cannot be made."""
        index = SearchIndex(results, corpus, self.cache)
        if not index.behind():
            return index, 0
        with self._lock:
            thread = self._threads.get(corpus)
            if thread is None or not thread.is_alive():
                self._errors.pop(corpus, None)
                thread = threading.Thread(target=self._update, args=(index,), daemon=True)
                self._threads[corpus] = thread
                thread.start()
        thread.join(PATIENCE)
        if corpus in self._errors:
            raise BadInput(self._errors[corpus])
        return index, len(index.behind())

    def _update(self, index: SearchIndex) -> None:
        try:
            for _ in index.update():
                pass
        except Exception as error:  # told on the page
            self._errors[index.corpus] = str(error)
