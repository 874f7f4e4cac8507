"""study/<study>/report: the findings as one self-contained page that can be sent to a colleague."""

from collections.abc import Callable, Iterable, Iterator, Sequence

import dagster as dg
import pyarrow as pa

from assets.corpus.tokenizer import tokenizer_table
from assets.findings.analysis import drawn
from assets.findings.evidence import evidence_table
from assets.lake.columns import STAMP
from assets.lake.lake import Lake
from assets.lake.tables import Column, Table
from assets.model.checkpoint import checkpoint_table
from assets.specs.study import Study
from assets.step.declaring import asset_arguments
from assets.step.fingerprints import fingerprint
from assets.step.step import Step, run_step
from assets.study.completions import completions_table
from assets.study.coverage import coverage_table
from assets.study.rankings import rankings_table
from assets.tracking.tracking import Tracking
from compute.errors import BadInput

CODE_VERSION = "3"
STORY = "Claims with their evidence, figures, documents, settings, versions and limitations, on one page of HTML."
FILE = "report.html"


def report_table(study: str) -> Table:
    return Table(
        key=("study", study, "report"),
        grain="one row per report",
        columns=(
            Column("title", pa.string(), "Title of the page."),
            Column("html", pa.string(), "The page: one file of HTML that needs nothing from elsewhere."),
            STAMP,
        ),
    )


def report_asset(
    study: Study, findings: Sequence[Table], outdated: Callable[[Step], str | None]
) -> dg.AssetsDefinition:
    """Writes the study's page. `findings`: the tables of its analyses, and of its claims; `outdated` gives a sentence
    where they are not of the scores as they are now."""
    table = report_table(study.name)
    deps = {each.asset_key: None for each in (*_whole(study), *findings)}

    def write(step: Step) -> None:
        if problem := outdated(step):
            raise BadInput(problem)
        _write_report(step, study, table, findings)

    @dg.asset(
        **asset_arguments(
            table, f"study_{study.name}", CODE_VERSION, STORY, owners=study.spec.owners, kinds=("polars", "html")
        ),
        deps=list(deps),
    )
    def report(context: dg.AssetExecutionContext, lake: Lake, tracking: Tracking) -> Iterator[dg.MaterializeResult]:
        yield from run_step(context, lake, tracking, write)

    return report


def _whole(study: Study) -> tuple[Table, ...]:
    """What the page reads beside the findings."""
    name, spec = study.name, study.spec
    models = [model.name for model in (spec.model, spec.query_model) if model]
    return (
        completions_table(name),
        coverage_table(name),
        rankings_table(name),
        *map(checkpoint_table, models),
        tokenizer_table(spec.corpus.name),
    )


def _write_report(step: Step, study: Study, table: Table, findings: Sequence[Table]) -> None:
    stamp = _stamp(step, study, findings)
    if step.is_current(table, stamp):
        return
    from assets.findings.report.gathering import Gathering
    from assets.findings.report.page import render

    page = Gathering(step, study, findings, drawn).page()
    html = render(page)
    step.tracking.log_text(html, FILE)
    rows = pa.table({"title": [page.title], "html": [html], "fingerprint": [stamp]}, schema=table.schema)
    step.write(table, rows, stamp, metadata=_facts(step, page, html))


def _facts(step: Step, page, html: str) -> dict:
    main = [claim for claim in page.claims if claim.method == page.claims[0].method]
    facts = {
        "title": page.title,
        "size (kB)": round(len(html.encode()) / 1000),
        "claims": len(main),
        "claims that hold": sum(claim.holds for claim in main),
        "claims that hold, and not in the controls": sum(claim.look == "yes" for claim in main),
        "left out": ", ".join(section.title for section in page.sections if section.left_out) or "nothing",
    }
    if address := step.tracking.artifact_url(FILE):
        facts["page"] = dg.MetadataValue.url(address)
    return facts


def _stamp(step: Step, study: Study, findings: Sequence[Table]) -> str:
    """Everything that is shown: the study's fields, and the rows of all tables that are there."""
    tables = (*_whole(study), *findings, evidence_table(study.name))
    return fingerprint("report", CODE_VERSION, study.spec, dict(_marks(step, tables)))


def _marks(step: Step, tables: Iterable[Table]) -> Iterator[tuple[str, dict[str, str]]]:
    for each in tables:
        if step.lake.version(each) is not None:
            yield each.path, step.lake.fingerprints(each, version=step.version(each))
