"""The figures of the findings: rows of an analysis and of its evidence in, a picture out. Nothing is read or decided
here."""

from assets.findings.charts.ablation import ablation_figure
from assets.findings.charts.answers import answers_figure
from assets.findings.charts.claims import claims_figure
from assets.findings.charts.correlation import correlation_figure
from assets.findings.charts.kinds import kinds_figure
from assets.findings.charts.magnitude import magnitude_figure
from assets.findings.charts.power_law import power_law_figure
from assets.findings.charts.sources import sources_figure
from assets.findings.charts.verdicts import verdicts_figure

__all__ = [
    "ablation_figure",
    "answers_figure",
    "claims_figure",
    "correlation_figure",
    "kinds_figure",
    "magnitude_figure",
    "power_law_figure",
    "sources_figure",
    "verdicts_figure",
]
