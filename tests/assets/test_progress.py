"""Progress: what is said and measured of long work, and how often."""

from __future__ import annotations

import pytest

from assets.tracking import progress as module
from assets.tracking.progress import Progress, seconds_to_next


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(module, "time", clock)
    return clock


def test_throughput_is_measured_every_ten_seconds(clock, capsys):
    lines, measured = [], []
    with Progress("demo", 100, "documents", log=lines.append, measure=lambda *each: measured.append(each)) as progress:
        for second in range(30):
            clock.now = second + 1
            progress.advance(2 if second < 15 else 4)
    assert measured == [
        ({"progress/documents": 20, "progress/documents_per_second": 2.0}, 20),
        ({"progress/documents": 50, "progress/documents_per_second": 3.0}, 50),
        ({"progress/documents": 90, "progress/documents_per_second": 4.0}, 90),
    ]
    assert lines == [
        "demo: 20 of 100 documents (20 %), 2 per second, about 40 s left",
        "demo: 50 of 100 documents (50 %), 3 per second, about 20 s left",
        "demo: 90 of 100 documents (90 %), 4 per second, about 3 s left",
        "demo: 90 documents in 30.0 s",
    ]
    assert capsys.readouterr().err.count("\n") == 4


def test_short_work_measures_nothing_and_longer_work_its_end(clock):
    measured = []
    with Progress("a", 10, "tokens", log=lambda _: None, measure=lambda *each: measured.append(each)) as progress:
        clock.now = 1.0
        progress.advance(10)
    assert measured == []
    with Progress("a", 10, "tokens", log=lambda _: None, measure=lambda *each: measured.append(each)) as progress:
        clock.now = 6.0
        progress.advance(10)
    assert measured == [({"progress/tokens": 10, "progress/tokens_per_second": 2.0}, 10)]


def test_work_that_fails_says_no_end(clock):
    lines = []
    with pytest.raises(ValueError), Progress("a", 10, "tokens", log=lines.append) as progress:
        progress.advance(1)
        raise ValueError
    assert lines == []


@pytest.mark.parametrize(("minutes", "left"), [(None, "about 20 min left"), (5, "about 4 min left"), (30, "20 min")])
def test_the_time_left_ends_with_the_time_that_is_allowed(clock, monkeypatch, capsys, minutes, left):
    lines = []
    with Progress("m: training", 1, "steps", log=lines.append) as progress:
        progress.total, progress.seconds_at_most = 21, minutes and 60 * minutes
        clock.now = 60.0
        progress.advance(1)
    assert left in lines[0]

    monkeypatch.setattr("sys.stderr.isatty", lambda: True)
    clock.now = 0.0
    with Progress("m: training", 1, "steps", log=lines.append) as progress:
        progress.total, progress.seconds_at_most = 21, minutes and 60 * minutes
        clock.now = 60.0
        progress.advance(1)
        progress._bar.refresh()
        assert left in str(progress._bar) and "1/21" in str(progress._bar)


def test_a_day_makes_a_bounded_number_of_reports():
    elapsed, reports = 0.0, 0
    while elapsed < 24 * 3600:
        elapsed, reports = elapsed + seconds_to_next(elapsed), reports + 1
    assert reports < 1500 and seconds_to_next(0) == 10
