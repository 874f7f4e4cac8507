"""Reading and writing beside the work: while a shard is worked on, the next is read and the one before it is written.

Reads have one thread and writes another, which touch the lake and nothing else; work, and all that is told to Dagster
and MLflow, stays in the thread of the step. At most one shard is read ahead and one is written behind, so that three
are in memory at most, and shards are taken, and written, in their order. No thread outlives the step: one that ends
early, by an interrupt too, waits for the read and the write that have begun: a write is short, and holds work that is
done. Rows are complete before delta-rs gets them (`assets/lake/writing.py`), so no stream waits for another thread.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from concurrent.futures import Future, ThreadPoolExecutor, wait
from typing import Generic, TypeVar

from assets.step.shard_failures import ShardFailures

Read = TypeVar("Read")
Written = TypeVar("Written")


class ReadAhead(Generic[Read]):
    """What `read` gives of each shard in turn; the next one is read meanwhile."""

    def __init__(self, read: Callable[[str], Read], shards: Iterable[str]) -> None:
        self._read, self._rest = read, iter(shards)
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="read-ahead")
        self._coming: Future[Read] | None = None

    def __enter__(self) -> ReadAhead[Read]:
        self._begin()
        return self

    def __exit__(self, *_) -> None:
        self._pool.shutdown()

    def take(self) -> Read:
        """The next shard's, or the error of its reading. Only now is the one after it begun."""
        taken = self._coming
        wait([taken])
        self._begin()
        return taken.result()

    def _begin(self) -> None:
        shard = next(self._rest, None)
        self._coming = None if shard is None else self._pool.submit(self._read, shard)


class WriteBehind(Generic[Written]):
    """Writes a shard while the next is worked on. `told` is called in the thread of the step with what was written."""

    def __init__(self, told: Callable[[str, Written], None], failures: ShardFailures) -> None:
        self._told, self._failures = told, failures
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="write-behind")
        self._begun: tuple[str, Future[Written]] | None = None

    def __enter__(self) -> WriteBehind[Written]:
        return self

    def __exit__(self, *_) -> None:
        try:
            self._settle()
        finally:
            self._pool.shutdown()

    def begin(self, shard: str, write: Callable[[], Written]) -> None:
        """Begins to write a shard, once the one before it is written."""
        self._settle()
        self._begun = (shard, self._pool.submit(write))

    def look(self) -> None:
        """Tells of the shard that is being written as soon as it is: to be called now and then during the work."""
        if self._begun and self._begun[1].done():
            self._settle()

    def _settle(self) -> None:
        if self._begun:
            shard, write = self._begun
            wait([write])
            self._begun = None
            with self._failures.of(shard):
                self._told(shard, write.result())


def overlapped(
    shards: Iterable[str],
    *,
    read: Callable[[str], Read],
    work: Callable[[str, Read, Callable[[], None]], Callable[[], Written]],
    told: Callable[[str, Written], None],
    failures: ShardFailures,
) -> None:
    """Does the work of every shard. `read` is called in a thread of its own; `work` gets a shard, what was read of it,
    and a function to call now and then, which tells of the shard before; it gives the function that writes, which is
    called in the other thread, and `told` gets what that one gives."""
    shards = list(shards)
    with ReadAhead(read, shards) as ahead, WriteBehind(told, failures) as behind:
        for shard in shards:
            with failures.of(shard):
                behind.begin(shard, work(shard, ahead.take(), behind.look))
