"""One run of the comparison: agreement first, which also warms every contender up, then the alternating repetitions."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from benchmarks.engine.agreement import Agreement, agreement
from benchmarks.engine.processes import Process, start
from benchmarks.engine.setting import Setting

RANKS = (8, 16, 32, 48, 64, 96, 128, 192, 256)
HALF = "bfloat16"


@dataclass
class Comparison:
    """What was measured: `runs` has one answer of a worker per repetition and row, by the row's name."""

    setting: Setting
    rank: int | None = None
    agreements: dict[str, Agreement] = field(default_factory=dict)
    runs: dict[str, list[dict]] = field(default_factory=dict)
    left_out: dict[str, str] = field(default_factory=dict)
    versions: dict[str, dict[str, str]] = field(default_factory=dict)


class Run:
    """`directory` holds the trained model; contenders keep their factors and query gradients in it."""

    def __init__(self, setting: Setting, directory: Path, contenders: list[str]) -> None:
        self.setting, self.found = setting, Comparison(setting)
        self.processes: dict[str, Process] = start(contenders, setting, directory)
        self.found.versions = {name: process.versions for name, process in self.processes.items()}

    def close(self) -> None:
        for process in self.processes.values():
            process.close()

    def measure(self, repetitions: int, ranks: tuple[int, ...] = RANKS) -> Comparison:
        self._agree_with_peers()
        self._fit()
        self._choose_rank(ranks)
        rows = self._rows()
        for repetition in range(repetitions):
            for name, row in rows.items():
                answer = row()
                self.found.runs.setdefault(name, []).append(answer)
                say(f"repetition {repetition + 1} of {repetitions}: {name}: {_seconds(answer)}")
        return self.found

    def _agree_with_peers(self) -> None:
        """All tools fitted with the data's labels, so that they compute the same quantity."""
        tools = self._tools()
        scores_QD = {}
        for name in tools:
            say(f"agreement with the data's labels: {name}")
            self.processes[name].do("factors", labels="empirical")
            scores_QD[name] = self._full_scores(name, "empirical")
        for name in tools[1:]:
            self.found.agreements[f"headwater and {name}, both at full rank"] = agreement(
                scores_QD["headwater"], scores_QD[name]
            )

    def _fit(self) -> None:
        for name in self._tools():
            say(f"factors with sampled labels: {name}")
            self.processes[name].do("factors")

    def _choose_rank(self, ranks: tuple[int, ...]) -> None:
        """The least of `ranks` that meets the agreement row, or the full rank; and what a peer's rank of 32 comes to."""
        full_QD = self._full_scores("headwater", "sampled")
        for rank in ranks:
            self.processes["headwater"].do("query_gradients", count=self.setting.queries, rank=rank)
            _, scores_QD = self.processes["headwater"].scores(count=self.setting.queries, rank=rank)
            self._agreed(f"headwater, rank {rank} and full rank", scores_QD, full_QD)
            if self.found.agreements[f"headwater, rank {rank} and full rank"].meets:
                self.found.rank = rank
                break
        if self._can_halve("headwater"):
            half_QD = self._scores("headwater", HALF, self.found.rank)[1]
            self._agreed("headwater, bfloat16 at its rank and float32 at full rank", half_QD, full_QD)
        if "kronfluence" in self.processes:
            theirs_QD = self._full_scores("kronfluence", "sampled")
            low_QD = self.processes["kronfluence"].scores(count=self.setting.queries, rank=32)[1]
            self._agreed("kronfluence, rank 32 and full rank", low_QD, theirs_QD)
        if "bergson" in self.processes:
            self._full_scores("bergson", "sampled")

    def _rows(self) -> dict[str, Callable[[], dict]]:
        """What is repeated, in the order of a repetition. Rows that fail when tried once are left out, with the reason."""
        few, many, rank = self.setting.queries, self.setting.many_queries, self.found.rank
        ask = self._asker
        rows = {"training pass": ask("plain", "training_pass"), "floor": ask("plain", "floor")}
        rows["headwater factors"] = ask("headwater", "factors")
        rows[f"headwater, {few} queries"] = ask("headwater", "scores", count=few, rank=rank)
        for tool in self._tools()[1:]:
            rows[f"{tool} factors"] = ask(tool, "factors")
            rows[f"{tool}, {few} queries"] = ask(tool, "scores", count=few, **self._full(tool))
        if "kronfluence" in self.processes:
            rows[f"kronfluence, {few} queries, rank 32"] = ask("kronfluence", "scores", count=few, rank=32)
        if self._tried("headwater query gradients", lambda: self._query_gradients("headwater", many, rank)):
            rows[f"headwater, {many} queries"] = ask("headwater", "scores", count=many, rank=rank)
        rows |= {f"{name} in {HALF}": ask("plain", name.replace(" ", "_"), precision=HALF) for name in tuple(rows)[:2]}
        for tool in self._tools():
            if self._can_halve(tool):
                settings = {"rank": rank} if tool == "headwater" else self._full(tool)
                rows[f"{tool}, {few} queries in {HALF}"] = ask(tool, "scores", count=few, precision=HALF, **settings)
        return rows

    def _tools(self) -> list[str]:
        """Headwater, and the peers that run here."""
        return [name for name in self.processes if name != "plain"]

    def _asker(self, name: str, stage: str, **arguments) -> Callable[[], dict]:
        return lambda: self.processes[name].do(stage, **arguments)

    def _full(self, tool: str) -> dict:
        return {} if tool == "bergson" else {"rank": None}

    def _query_gradients(self, tool: str, count: int, rank: int | None = None, **named) -> dict:
        settings = {} if tool == "bergson" else {"rank": rank}
        return self.processes[tool].do("query_gradients", count=count, **settings, **named)

    def _full_scores(self, tool: str, labels: str) -> np.ndarray:
        if tool != "kronfluence":
            self._query_gradients(tool, self.setting.queries, labels=labels)
        return self.processes[tool].scores(count=self.setting.queries, labels=labels, **self._full(tool))[1]

    def _scores(self, tool: str, precision: str, rank: int | None) -> tuple[dict, np.ndarray]:
        return self.processes[tool].scores(count=self.setting.queries, rank=rank, precision=precision)

    def _can_halve(self, tool: str) -> bool:
        name = f"{tool} in {HALF}"
        settings = {"rank": self.found.rank} if tool == "headwater" else self._full(tool)
        trial = self._asker(tool, "scores", count=self.setting.queries, precision=HALF, **settings)
        return self._tried(name, trial)

    def _tried(self, name: str, trial: Callable[[], dict]) -> bool:
        from benchmarks.engine.processes import StageFailed

        say(f"trying once: {name}")
        try:
            answer = trial()
        except StageFailed as failure:
            self.found.left_out[name] = str(failure).strip().splitlines()[-1]
            return False
        self.found.runs.setdefault(f"{name}, once", [answer])
        return True

    def _agreed(self, name: str, found_QD: np.ndarray, expected_QD: np.ndarray) -> None:
        self.found.agreements[name] = agreement(found_QD, expected_QD)
        say(f"agreement of {name}: {self.found.agreements[name]}")


def say(message: str) -> None:
    print(message, file=sys.stderr, flush=True)


def _seconds(answer: dict) -> str:
    parts = ", ".join(f"{name} {seconds:.2f} s" for name, seconds in answer["seconds"].items())
    return f"{parts}; {answer['added_mib']:.0f} MiB added"
