"""Shards read ahead and written behind: what goes on at once, how much of it, and what becomes of errors."""

from __future__ import annotations

import signal
import threading
import weakref
from collections.abc import Callable

import pytest

from assets.step.overlap import WriteBehind, overlapped
from assets.step.shard_failures import ShardFailures
from compute.errors import BadInput

SHARDS = ("a", "b", "c", "d", "e")
PATIENCE = 20  # seconds until a test gives up on what should happen at once


class Rows:
    """What is held of a shard, from its reading to the end of its writing."""

    def __init__(self, shard: str) -> None:
        self.shard = shard


class Stages:
    """Notes what happens, in its order; `during` is called with each stage and shard, in the thread of the stage."""

    def __init__(self, during: Callable[[str, str], None] = lambda stage, shard: None) -> None:
        self.during, self.events, self.look = during, [], lambda: None
        self.failures = ShardFailures(len(SHARDS), lambda sentence: self.events.append(("failed", sentence)))

    def read(self, shard: str) -> Rows:
        self.note("read", shard)
        return Rows(shard)

    def work(self, shard: str, rows: Rows, look: Callable[[], None]) -> Callable[[], Rows]:
        assert rows.shard == shard
        self.look = look
        self.note("work", shard)

        def write() -> Rows:
            self.note("write", shard)
            return rows

        return write

    def told(self, shard: str, rows: Rows) -> None:
        assert rows.shard == shard and threading.current_thread() is threading.main_thread()
        self.events.append(("told", shard))

    def note(self, stage: str, shard: str) -> None:
        self.events.append((stage, shard))
        self.during(stage, shard)
        self.events.append((f"{stage} ended", shard))

    def run(self) -> None:
        overlapped(SHARDS, read=self.read, work=self.work, told=self.told, failures=self.failures)
        self.failures.raise_any()

    def of(self, stage: str) -> list[str]:
        return [shard for name, shard in self.events if name == stage]

    def place(self, stage: str, shard: str) -> int:
        return self.events.index((stage, shard))


def threads() -> list[str]:
    return [each.name for each in threading.enumerate() if each.name.startswith(("read-ahead", "write-behind"))]


def test_a_shard_is_worked_on_while_the_next_is_read_and_the_one_before_is_written():
    meeting = threading.Barrier(3, timeout=PATIENCE)

    def meet(stage: str, shard: str) -> None:
        if (stage, shard) in (("read", "d"), ("work", "c"), ("write", "b")):
            meeting.wait()  # goes on only where all three are there

    stages = Stages(meet)
    stages.run()
    for stage in ("read", "work", "write", "told"):
        assert stages.of(stage) == list(SHARDS)
    assert not threads()


def test_one_is_read_ahead_and_one_is_written_behind_and_never_more():
    alive, most = [0], [0]
    is_read = {shard: threading.Event() for shard in SHARDS}
    may_write = {shard: threading.Event() for shard in SHARDS}

    class Counted(Stages):
        def read(self, shard: str) -> Rows:
            rows = super().read(shard)
            alive[0] += 1
            most[0] = max(most[0], alive[0])
            weakref.finalize(rows, lambda: alive.__setitem__(0, alive[0] - 1))
            return rows

    def hold(stage: str, shard: str) -> None:
        place = SHARDS.index(shard)
        if stage == "work" and place + 1 < len(SHARDS):
            assert is_read[SHARDS[place + 1]].wait(PATIENCE)  # the next is there …
            threading.Event().wait(0.05)  # … and another one would have the time to come
            may_write[shard].set()
            if place:
                may_write[SHARDS[place - 1]].set()
        if stage == "read":
            is_read[shard].set()
        if stage == "write" and place + 2 < len(SHARDS):
            assert may_write[SHARDS[place + 1]].wait(PATIENCE)  # not before the next has been worked on for a while

    stages = Counted(hold)
    stages.run()
    assert most[0] == 3
    for before, shard, after in zip(SHARDS, SHARDS[1:], SHARDS[2:], strict=False):
        assert stages.place("work ended", before) < stages.place("read", after)
        assert stages.place("write ended", before) < stages.place("write", shard)
    assert stages.of("told") == list(SHARDS)


def fail(at: tuple[str, str], error: BaseException) -> Callable[[str, str], None]:
    def during(stage: str, shard: str) -> None:
        if (stage, shard) == at:
            raise error

    return during


@pytest.mark.parametrize("stage", ["read", "work", "write"])
def test_a_shard_that_fails_is_raised_as_it_is_and_the_others_are_done(stage):
    stages = Stages(fail((stage, "b"), BadInput("shard b was cut with another tokenizer")))
    with pytest.raises(BadInput, match=r"^shard b was cut with another tokenizer$"):
        stages.run()
    assert stages.of("told") == ["a", "c", "d", "e"]
    assert not threads()


def test_shards_that_fail_are_one_error():
    def during(stage: str, shard: str) -> None:
        if (stage, shard) in (("read", "b"), ("write", "d")):
            raise OSError(f"no space for {shard}") if stage == "write" else BadInput("b is damaged")

    stages = Stages(during)
    with pytest.raises(RuntimeError, match=r"2 of 5 shards failed \(b, d\); the first: no space for d"):
        stages.run()


def test_a_write_that_fails_is_told_during_the_work_on_the_next_shard(capsys):
    begun = threading.Event()

    def during(stage: str, shard: str) -> None:
        if (stage, shard) == ("write", "a"):
            begun.wait(PATIENCE)
            raise OSError("no space")
        if (stage, shard) == ("work", "b"):
            begun.set()
            for _ in range(PATIENCE * 100):
                stages.look()
                if stages.of("failed"):
                    return
                threading.Event().wait(0.01)

    stages = Stages(during)
    with pytest.raises(OSError, match=r"^no space$"):
        stages.run()
    assert stages.of("failed") == ["shard a failed: no space"]
    assert stages.place("failed", "shard a failed: no space") < stages.place("work ended", "b")
    assert capsys.readouterr().err == "  shard a failed: no space\n"


@pytest.mark.parametrize("error", [KeyboardInterrupt(), GeneratorExit()])
def test_an_interrupt_waits_for_what_is_being_written_and_leaves_no_thread(error):
    """A scored shard is not lost; nothing that has not begun is begun."""
    interrupted = threading.Event()

    def during(stage: str, shard: str) -> None:
        if (stage, shard) == ("work", "b"):
            interrupted.set()
            raise error
        if (stage, shard) == ("write", "a"):
            interrupted.wait(PATIENCE)

    stages = Stages(during)
    with pytest.raises(type(error)):
        stages.run()
    assert stages.of("told") == ["a"] and stages.of("work") == ["a", "b"]
    assert set(stages.of("read")) == {"a", "b", "c"} and not stages.of("failed")
    assert not threads()


def test_ctrl_c_reaches_a_step_that_waits_for_a_shard(monkeypatch):
    usual = signal.signal(signal.SIGINT, signal.default_int_handler)

    def during(stage: str, shard: str) -> None:
        if (stage, shard) == ("read", "b"):
            assert a_is_handed_over.wait(PATIENCE)
            threading.Event().wait(0.1)  # until the step waits
            signal.pthread_kill(threading.main_thread().ident, signal.SIGINT)
            threading.Event().wait(0.1)

    a_is_handed_over = threading.Event()
    stages = Stages(during)
    begin = WriteBehind.begin
    monkeypatch.setattr(WriteBehind, "begin", lambda *arguments: (begin(*arguments), a_is_handed_over.set()))
    try:
        with pytest.raises(KeyboardInterrupt):
            stages.run()
    finally:
        signal.signal(signal.SIGINT, usual)
    assert stages.of("told") == ["a"] and stages.of("read ended") == ["a", "b"]
    assert not threads()


def test_what_no_shard_survives_ends_all_of_them():
    """A reader that panics is no error of one shard: polars' panics are no `Exception`."""

    class Panic(BaseException):
        pass

    stages = Stages(fail(("read", "b"), Panic("thread panicked")))
    with pytest.raises(Panic):
        stages.run()
    assert stages.of("told") == ["a"] and stages.of("work") == ["a"]
    assert not threads()


def test_without_shards_there_is_nothing_to_do():
    stages = Stages()
    overlapped((), read=stages.read, work=stages.work, told=stages.told, failures=stages.failures)
    assert not stages.events
