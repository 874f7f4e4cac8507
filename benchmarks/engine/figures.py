"""Figures of a comparison: medians over the repetitions of what each row took, alone and as multiples of others."""

from __future__ import annotations

from statistics import median

from benchmarks.engine.comparison import Comparison

YARDSTICK, FLOOR = "training pass", "floor"


class Figures:
    """`clock` is "wall", or "processor" where others work on the machine, which a thread's own time hardly knows of."""

    def __init__(self, comparison: Comparison, clock: str = "wall") -> None:
        self.comparison, self.clock = comparison, clock

    def has(self, row: str) -> bool:
        return row in self.comparison.runs

    def seconds(self, row: str) -> list[float]:
        """One per repetition. Scoring is its pass over the documents, whatever else its call had to do."""
        found = []
        for run in self.comparison.runs[row]:
            parts = {name: seconds[self.clock] for name, seconds in run["seconds"].items()}
            found.append(parts.get("scores", sum(parts.values())))
        return found

    def parts(self, row: str) -> dict[str, float]:
        runs = self.comparison.runs[row]
        return {name: median(run["seconds"][name][self.clock] for run in runs) for name in runs[0]["seconds"]}

    def ratios(self, row: str, base: str) -> list[float]:
        """Repetition by repetition, so that what the machine did meanwhile weighs on both; where one of them ran once,
        beside none of the other's repetitions, by the median of the base."""
        tops, bottoms = self.seconds(row), self.seconds(base)
        if len(tops) != len(bottoms):
            return [top / median(bottoms) for top in tops]
        return [top / bottom for top, bottom in zip(tops, bottoms, strict=True)]

    def ratio(self, row: str, base: str) -> float:
        return median(self.ratios(row, base))

    def is_once(self, row: str) -> bool:
        """Whether a row ran once where others were repeated."""
        return len(self.comparison.runs[row]) == 1 < len(self.comparison.runs[YARDSTICK])

    def mib(self, row: str, which: str = "added_mib") -> float:
        return median(run[which] for run in self.comparison.runs[row])

    def faster_peer(self, work: str) -> str | None:
        """The row of the peer that does `work` ("factors", "32 queries") in the least time, of those that ran."""
        rows = [f"{peer}{work}" for peer in ("bergson", "kronfluence")]
        rows += [f"kronfluence{work}, rank 32"]
        return min(filter(self.has, rows), key=lambda row: self.ratio(row, YARDSTICK), default=None)
