"""One run of the comparison: agreement first, which also warms every contender up, then the alternating repetitions."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from benchmarks.engine.agreement import Agreement, agreement
from benchmarks.engine.headwater import AUTO
from benchmarks.engine.processes import Process, StageFailed, start
from benchmarks.engine.setting import Setting

RANKS = (8, 16, 32, 48, 64, 96, 128, 192, 256)
HALF = "bfloat16"
FACTORS = " factors"  # what rows of fits end with


@dataclass
class Comparison:
    """What was measured: `runs` has one answer of a worker per repetition and row, by the row's name."""

    setting: Setting
    rank: int | str | None = None
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

    def measure(
        self, repetitions: int, *, with_peers_agreement: bool = True, factors_once: bool = False
    ) -> Iterator[Comparison]:
        """Gives what was found so far after each repetition. With `factors_once` they are not fitted again for it: what
        counts is the fit before all repetitions."""
        if with_peers_agreement:
            self._agree_with_peers()
        fits = self._fit()
        if factors_once:
            self.found.runs |= {name: [answer] for name, answer in fits.items()}
        full_QD = {tool: self._full_scores(tool, "sampled") for tool in self._tools()}
        self._choose_rank(full_QD["headwater"])
        if "kronfluence" in full_QD:
            low_QD = self.processes["kronfluence"].scores(count=self.setting.queries, rank=32)[1]
            self._agreed("kronfluence, rank 32 and full rank", low_QD, full_QD["kronfluence"])
        rows = self._rows([tool for tool in self._tools() if self._halves(tool, full_QD[tool])])
        for repetition in range(repetitions):
            for name, row in rows.items():
                if factors_once and name.endswith(FACTORS):
                    continue
                answer = row()
                self.found.runs.setdefault(name, []).append(answer)
                say(f"repetition {repetition + 1} of {repetitions}: {name}: {_seconds(answer)}")
            yield self.found

    def _agree_with_peers(self) -> None:
        """All tools fitted with the data's labels, so that they compute the same quantity."""
        scores_QD = {}
        for tool in self._tools():
            say(f"agreement with the data's labels: {tool}")
            self.processes[tool].do("factors", labels="empirical")
            scores_QD[tool] = self._full_scores(tool, "empirical")
            if tool != "headwater":
                self._agreed(f"headwater and {tool}, both at full rank", scores_QD["headwater"], scores_QD[tool])

    def _fit(self) -> dict[str, dict]:
        """The answers by the names of rows."""
        answers = {}
        for tool in self._tools():
            say(f"factors with sampled labels: {tool}")
            answers[f"{tool}{FACTORS}"] = self.processes[tool].do("factors")
            say(_seconds(answers[f"{tool}{FACTORS}"]))
        return answers

    def _choose_rank(self, full_QD: np.ndarray) -> None:
        """What auto gives where that meets the agreement row, else the least of RANKS that does, or the full rank."""
        for rank in (AUTO, *RANKS):
            name = f"headwater, rank {rank} and full rank"
            self._query_gradients("headwater", self.setting.queries, rank=rank)
            self._agreed(name, self.processes["headwater"].scores(count=self.setting.queries, rank=rank)[1], full_QD)
            if self.found.agreements[name].meets:
                self.found.rank = rank
                break

    def _halves(self, tool: str, full_QD: np.ndarray) -> bool:
        """Whether a tool scores in bfloat16, and how its scores then agree with its float32 ones at full rank."""
        settings = self._settings(tool) | {"count": self.setting.queries, "precision": HALF}
        found = self._tried(f"{tool} in {HALF}", lambda: self.processes[tool].scores(**settings))
        if found is not None:
            self._agreed(f"{tool}, {HALF} and float32 at full rank", found[1], full_QD)
        return found is not None

    def _rows(self, halved: list[str]) -> dict[str, Callable[[], dict]]:
        """What is repeated, in the order of a repetition."""
        few, many = self.setting.queries, self.setting.many_queries
        rows = {"training pass": self._asker("plain", "training_pass"), "floor": self._asker("plain", "floor")}
        rows["floor, freed memory kept"] = self._asker("plain", "floor", kept=True)
        for tool in self._tools():
            rows[f"{tool}{FACTORS}"] = self._asker(tool, "factors")
            rows[f"{tool}, {few} queries"] = self._asker(tool, "scores", count=few, **self._settings(tool))
        if "kronfluence" in self.processes:
            rows[f"kronfluence, {few} queries, rank 32"] = self._asker("kronfluence", "scores", count=few, rank=32)
        made = self._tried(
            f"headwater, {many} queries",
            lambda: self._query_gradients("headwater", many, **self._settings("headwater")),
        )
        if made is not None:
            rows[f"headwater, {many} queries"] = self._asker(
                "headwater", "scores", count=many, **self._settings("headwater")
            )
            self.found.runs[f"headwater query gradients, {many} queries, once"] = [made]
        rows[f"training pass in {HALF}"] = self._asker("plain", "training_pass", precision=HALF)
        rows[f"floor in {HALF}"] = self._asker("plain", "floor", precision=HALF)
        for tool in halved:
            settings = self._settings(tool) | {"count": few, "precision": HALF}
            rows[f"{tool}, {few} queries in {HALF}"] = self._asker(tool, "scores", **settings)
        return rows

    def _tools(self) -> list[str]:
        """Headwater, and the peers that run here."""
        return [name for name in self.processes if name != "plain"]

    def _settings(self, tool: str) -> dict:
        """What a tool's scoring is told of ranks: bergson knows the full one only."""
        return {"headwater": {"rank": self.found.rank}, "kronfluence": {"rank": None}, "bergson": {}}[tool]

    def _asker(self, name: str, stage: str, **arguments) -> Callable[[], dict]:
        return lambda: self.processes[name].do(stage, **arguments)

    def _query_gradients(self, tool: str, count: int, **named) -> dict:
        return self.processes[tool].do("query_gradients", count=count, **named)

    def _full_scores(self, tool: str, labels: str) -> np.ndarray:
        settings = {} if tool == "bergson" else {"rank": None}
        if tool != "kronfluence":
            self._query_gradients(tool, self.setting.queries, labels=labels, **settings)
        return self.processes[tool].scores(count=self.setting.queries, labels=labels, **settings)[1]

    def _tried(self, name: str, trial: Callable):
        """What `trial` gives, or None, the reason being noted."""
        say(f"trying once: {name}")
        try:
            return trial()
        except StageFailed as failure:
            self.found.left_out[name] = str(failure).strip().splitlines()[-1]
            return None

    def _agreed(self, name: str, found_QD: np.ndarray, expected_QD: np.ndarray) -> None:
        self.found.agreements[name] = agreement(found_QD, expected_QD)
        say(f"agreement of {name}: {self.found.agreements[name]}")


def say(message: str) -> None:
    print(message, file=sys.stderr, flush=True)


def _seconds(answer: dict) -> str:
    parts = ", ".join(f"{name} {seconds['wall']:.2f} s" for name, seconds in answer["seconds"].items())
    return f"{parts}; {answer['added_mib']:.0f} MiB added"
