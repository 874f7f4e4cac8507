"""The findings' figures, each drawn once for the rows that it shows."""

from __future__ import annotations

import threading

from assets.findings.analysis import drawn
from orchestration.explorer.known import refuse_unknown, refuse_unknown_study
from orchestration.results import Results, ranked
from orchestration.results.reading import table_of

FIGURES = ("correlation", "magnitude", "power_law", "answers", "kinds", "sources", "verdicts", "ablation", "claims")


class Drawings:
    """The figures that one explorer has drawn, by study and analysis, of the newest versions of their tables."""

    def __init__(self) -> None:
        self._kept: dict[tuple[str, str], tuple[tuple[int | None, ...], bytes]] = {}
        # A browser asks for all figures at once; the drawing libraries are not made for several threads.
        self._one_at_a_time = threading.Lock()

    def png(self, results: Results, study: str, analysis: str) -> bytes:
        """Raises BadInput for an unknown study or analysis."""
        refuse_unknown_study(results, study)
        refuse_unknown(analysis, FIGURES, "figure")
        with self._one_at_a_time:
            versions = tuple(results.lake.version(table_of(results, study, name)) for name in (analysis, "evidence"))
            there = self._kept.get((study, analysis))
            if there is None or there[0] != versions:
                there = self._kept[study, analysis] = versions, _png(results, study, analysis)
            return there[1]


def _png(results: Results, study: str, analysis: str) -> bytes:
    evidence = ranked.read_table(results, study, "evidence").filter(analysis=analysis)
    return drawn(analysis, ranked.read_table(results, study, analysis), evidence).png
