"""The page itself: data in, HTML out. What it says is in the data, how it looks in the templates beside this module.

The page needs nothing from elsewhere, and forbids itself to ask (its Content-Security-Policy has no address in it). The
same data give the same bytes: no times, no random ids.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cache

from assets.findings.report import numerals
from assets.findings.report.evidence_tables import EvidenceTables, method_name
from assets.findings.report.passages import ShownQuery
from assets.findings.report.vectors import Drawing
from assets.findings.report.verdicts import Claim
from assets.findings.report.visible import shown


@dataclass(frozen=True)
class Section:
    """One analysis. `left_out` says why there is nothing of it; `no_drawing` why there is no figure."""

    id: str
    title: str
    asked: str = ""
    measured: str = ""
    note: str = ""
    drawing: Drawing | None = None
    no_drawing: str = ""
    evidence: EvidenceTables | None = None
    table: str = ""
    left_out: str = ""


@dataclass(frozen=True)
class Setting:
    """A field of the study file, with dots for its place."""

    name: str
    value: str
    meaning: str
    is_given: bool


@dataclass(frozen=True)
class TableVersion:
    """A table of the lake as it was read."""

    path: str
    version: int
    written: str
    code_version: str
    fingerprint: str


@dataclass(frozen=True)
class Page:
    """Everything that the page says."""

    study: str
    model: str
    corpus: str
    date: str
    facts: Sequence[tuple[str, str]]
    method: str | None
    stated: Sequence[Claim]
    claims: Sequence[Claim]
    no_claims: str
    drawing: Drawing | None
    sections: Sequence[Section]
    queries: Sequence[ShownQuery]
    no_queries: str
    ranking: str
    settings: Sequence[Setting]
    versions: Sequence[TableVersion]
    behind: Sequence[tuple[str, str]]
    identities: Sequence[tuple[str, str]]
    limitations: Sequence[tuple[str, str]]
    owners: Sequence[str] = field(default_factory=tuple)

    @property
    def title(self) -> str:
        return f"Study {self.study}: what taught {self.model}"

    def figure_number(self, section: Section | None = None) -> int:
        """Of a section's figure, or of that of the claims, which comes first."""
        sections = [each.id for each in self.sections if each.drawing]
        return 1 if section is None else 1 + bool(self.drawing) + sections.index(section.id)

    @property
    def claim_methods(self) -> list[str]:
        return list(dict.fromkeys(claim.method for claim in self.claims))

    @property
    def claim_names(self) -> list[str]:
        return list(dict.fromkeys(claim.name for claim in self.claims))

    def claim(self, name: str, method: str) -> Claim | None:
        return next((claim for claim in self.claims if (claim.name, claim.method) == (name, method)), None)


def render(page: Page) -> str:
    """The page as HTML."""
    return _environment().get_template("page.html").render(page=page)


@cache
def _environment():
    from jinja2 import Environment, PackageLoader, StrictUndefined

    environment = Environment(
        loader=PackageLoader("assets.findings.report", "templates"),
        autoescape=True,
        finalize=shown,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters |= {
        "number": numerals.number,
        "interval": numerals.interval,
        "p_value": numerals.p_value,
        "count": numerals.count,
        "method_name": method_name,
        "words": lambda name: name.replace("_", " "),
    }
    environment.globals["plural"] = numerals.plural
    return environment
