"""What the page says, read from the study's tables at the versions of the step."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import polars as pl

from assets.corpus.tokenizer import tokenizer_table
from assets.findings.ablation.own_setting import own_agreement, own_sentence
from assets.findings.evidence import evidence_table
from assets.findings.groups import grouped
from assets.findings.report.evidence_tables import evidence_tables, method_name
from assets.findings.report.limitations import limitations
from assets.findings.report.numerals import day
from assets.findings.report.page import Page, Section
from assets.findings.report.passages import BOTTOM_SHOWN, TOP_SHOWN, chosen_queries, shown_queries
from assets.findings.report.settings import settings_of
from assets.findings.report.subjects import SUBJECTS, Subject
from assets.findings.report.vectors import Drawing, drawing
from assets.findings.report.verdicts import all_claims, stated_claims
from assets.findings.report.versions import tables_behind, versions_of
from assets.lake.tables import Table
from assets.model.checkpoint import checkpoint_table
from assets.specs.methods import in_importance, main_method
from assets.specs.study import Study
from assets.step.step import Step
from assets.study.completions import completions_table
from assets.study.coverage import coverage_table
from assets.study.exact import agreement_of
from assets.study.rankings import rankings_table

if TYPE_CHECKING:
    from assets.figures.drawing import Figure

Draw = Callable[[str, pl.DataFrame, pl.DataFrame], "Figure"]


class Gathering:
    """The page's data of one study. `findings` are the tables of its analyses and of its claims."""

    def __init__(self, step: Step, study: Study, findings: Sequence[Table], draw: Draw) -> None:
        self.step, self.study, self.draw = step, study, draw
        self.findings = {table.key[-1]: table for table in findings}
        self.completions = self._completions()
        evidence = self._rows(evidence_table(study.name))
        self.evidence = _no_evidence(study) if evidence is None else evidence
        self.method = main_method([each for each in self.evidence["method"].unique() if ", " not in each])

    def page(self) -> Page:
        """Versions are listed last, when all tables have been read."""
        spec, documents = self.study.spec, self._documents()
        claims = self._claims()
        sections = [self._section(each) for each in SUBJECTS if each.analysis in self.findings or not each.is_optional]
        queries, no_queries, ranking, agreement, spurious = self._ranked()
        identities = self._identities()
        versions = versions_of(self.step)
        groups = dict(self.completions.group_by("group").len().sort("group").iter_rows())
        return Page(
            study=self.study.name,
            model=spec.model.name,
            corpus=spec.corpus.name,
            date=day(max(written for written, _ in versions)),
            facts=self._facts(documents),
            method=self.method,
            **claims,
            sections=sections,
            queries=queries,
            no_queries=no_queries,
            ranking=ranking,
            settings=settings_of(spec),
            versions=[version for _, version in versions],
            behind=tables_behind(self.step),
            identities=identities,
            limitations=limitations(
                groups,
                agreement=agreement,
                spurious=spurious,
                resamples=spec.findings.resamples,
                rank=spec.options.rank,
                documents=documents,
            ),
            owners=spec.owners if "owners" in spec.model_fields_set else (),
        )

    def _rows(self, table: Table) -> pl.DataFrame | None:
        """All rows without the fingerprint, sorted, since Delta keeps no order; None where there is no such table."""
        if self.step.lake.version(table) is None:
            return None
        rows = self.step.scan(table).drop("fingerprint").collect()
        return rows.sort([name for name, kind in rows.schema.items() if not kind.is_nested()], nulls_last=True)

    def _completions(self) -> pl.DataFrame:
        rows = self.step.scan(completions_table(self.study.name)).drop("fingerprint").collect()
        groups = grouped(rows).select("query_id", "group", "is_control")
        return rows.join(groups, on="query_id", maintain_order="left").sort("position")

    def _documents(self) -> int:
        rows = self._rows(coverage_table(self.study.name))
        return 0 if rows is None else int(rows["documents"].sum())

    def _facts(self, documents: int) -> list[tuple[str, str]]:
        counts = self.completions.group_by("group", "is_control").len().sort("is_control", "group")
        kinds = ", ".join(f"{count} {group}" for group, _, count in counts.iter_rows())
        right = self.completions["is_right"].drop_nulls()
        spec = self.study.spec
        methods = in_importance(self.evidence["method"].unique().to_list()) or list(spec.options.methods)
        named = ", ".join(method_name(method) for method in methods if ", " not in method)
        other = [("Completions by", spec.query_model.name)] if spec.query_model else []
        return [
            ("Documents scored", f"{documents:,}"),
            ("Queries", f"{len(self.completions)} ({kinds})"),
            ("Answered rightly", f"{right.sum()} of {len(right)} with a known answer"),
            ("Methods", named),
            *other,
            *self._agreement_fact(),
        ]

    def _agreement_fact(self) -> list[tuple[str, str]]:
        rows = self._ablation()
        return [] if rows is None else [("Agreement with full rank in float32", own_agreement(rows).words)]

    def _ablation(self) -> pl.DataFrame | None:
        """Its rows, where the study has one that was made."""
        table = self.findings.get("ablation")
        rows = None if table is None else self._rows(table)
        return None if rows is None or rows.is_empty() else rows

    def _claims(self) -> dict:
        """The page's fields about claims."""
        table = self.findings.get("claims")
        rows = None if table is None else self._rows(table)
        if rows is None or rows.is_empty():
            why = f"The claims are left out: {_why(table, rows)}."
            return {"stated": [], "claims": [], "no_claims": why, "drawing": None}
        claims = all_claims(rows)
        drawn, _ = self._drawing("claims", rows, self.evidence)
        return {
            "stated": stated_claims(rows, claims[0].method),
            "claims": claims,
            "no_claims": "",
            "drawing": drawn,
        }

    def _drawing(self, name: str, rows: pl.DataFrame, evidence: pl.DataFrame) -> tuple[Drawing | None, str]:
        """The figure, or why there is none: a page without a picture is better than no page."""
        try:
            return drawing(self.draw(name, rows, evidence), name), ""
        except Exception as error:
            sentence = f"The figure could not be drawn ({type(error).__name__}: {str(error)[:200]})."
            self.step.context.log.warning(f"{name}: {sentence}")
            return None, sentence

    def _section(self, subject: Subject) -> Section:
        table = self.findings.get(subject.analysis)
        rows = None if table is None else self._rows(table)
        if rows is None or rows.is_empty():
            return Section(subject.analysis, subject.title, left_out=_why(table, rows))
        evidence = self.evidence.filter(analysis=subject.analysis)
        drawn, no_drawing = self._drawing(subject.analysis, rows, evidence)
        return Section(
            id=subject.analysis,
            title=subject.title,
            asked=subject.asked,
            measured=subject.measured,
            note=own_sentence(rows) if subject.analysis == "ablation" else subject.note,
            drawing=drawn,
            no_drawing=no_drawing,
            evidence=evidence_tables(subject, evidence, self.method),
            table=table.path,
        )

    def _ranked(self) -> tuple[list, str, str, float, float]:
        """The queries with their documents, why there are none, the ranking, the agreement and the flagged share."""
        table, nan = rankings_table(self.study.name), float("nan")
        if self.step.lake.version(table) is None:
            return [], f"The documents are left out: {_why(table, None)}.", "", nan, nan
        narrow = self.step.scan(table).select(
            "method", "query_id", "ranking", "document_id", "score", "exact_score", "likely_spurious"
        )
        narrow = narrow.collect()
        if narrow.is_empty():
            return [], f"The documents are left out: {_why(table, narrow)}.", "", nan, nan
        agreement, spurious = agreement_of(narrow), narrow["likely_spurious"].cast(pl.Float64).mean()
        method = main_method(narrow["method"].unique().to_list())
        ranking = "normed" if "normed" in narrow["ranking"] else narrow["ranking"].sort()[0]
        ids = chosen_queries(self.completions, narrow.filter(method=method)["query_id"].unique().to_list())
        wanted = (pl.col("method") == method) & (pl.col("ranking") == ranking) & pl.col("query_id").is_in(ids)
        near = pl.col("rank") <= max(TOP_SHOWN, BOTTOM_SHOWN)
        rows = self.step.scan(table).filter(wanted & near).collect()
        return shown_queries(self.completions, rows), "", ranking, agreement, _number(spurious)

    def _identities(self) -> list[tuple[str, str]]:
        """Fingerprints of what the study stands on."""
        spec = self.study.spec
        models = {f"Model {model.name}": model.name for model in (spec.model, spec.query_model) if model}
        found = [(label, self._fingerprint(checkpoint_table(name))) for label, name in models.items()]
        table = tokenizer_table(spec.corpus.name)
        if self.step.lake.version(table) is not None:
            marks = self.step.scan(table).select("tokenizer_fingerprint").unique().collect()["tokenizer_fingerprint"]
            found.append((f"Tokenizer of corpus {spec.corpus.name}", ", ".join(marks.sort())))
        return [(label, mark) for label, mark in found if mark]

    def _fingerprint(self, table: Table) -> str | None:
        return None if self.step.lake.version(table) is None else self.step.fingerprint(table)


def _no_evidence(study: Study) -> pl.DataFrame:
    return pl.from_arrow(evidence_table(study.name).schema.empty_table()).drop("fingerprint")


def _why(table: Table | None, rows: pl.DataFrame | None) -> str:
    if table is None:
        return "this study does not have that analysis"
    if rows is None:
        return f"the table {table.path} is not in the lake; materialize it, and then this report"
    return f"the table {table.path} has no rows"


def _number(value: float | None) -> float:
    return float("nan") if value is None else float(value)
