"""study/<study>/refined_gradients: each query's gradient refined along the Gauss-Newton matrix, for the method astra.

A stage on the query side, and a dear one: every pass runs some documents of the curvature's sample through the model
for each query. What comes out is cut to a low rank and scored like the gradients of the other methods.
"""

from collections.abc import Iterator

import dagster as dg
import polars as pl
import pyarrow as pa

from assets.curvature.factors import eigenbasis_table, eigenvalues_table, stored_curvature
from assets.curvature.sample import sample_sequences, sample_table
from assets.figures.previews import table_of
from assets.lake.columns import MODULE, QUERY_ID, STAMP
from assets.lake.lake import Lake
from assets.lake.matrices import VECTOR, matrix_batches, stacked
from assets.lake.tables import Column, Table
from assets.model.checkpoint import checkpoint_table
from assets.model.memory import refuse_beyond_memory
from assets.model.opening import open_traced_model
from assets.specs.study import Study
from assets.step.checks import Check
from assets.step.declaring import asset_arguments
from assets.step.fingerprints import fingerprint
from assets.step.reading import Reading
from assets.step.step import Step, run_step
from assets.study.completions import completions_table, query_sequences, query_side_dtypes, query_side_tables
from assets.tracking.tracking import Tracking

CODE_VERSION = "1"
STORY = "The gradient of each completion's loss, preconditioned by the Gauss-Newton matrix itself: ASTRA's iteration."


def refined_gradients_table(study: str) -> Table:
    return Table(
        key=("study", study, "refined_gradients"),
        grain="one row per output of a module: its row of a query's refined gradient",
        columns=(
            QUERY_ID,
            MODULE,
            Column("output", pa.int32(), "Number of the module's output."),
            Column("gradient", VECTOR, "The gradient along the module's inputs, the bias last where there is one."),
            Column(
                "residual",
                pa.float32(),
                "What the passes left of the query's system, in the preconditioner's norm: 0 where it is solved.",
            ),
            STAMP,
        ),
        row_group_rows=1_000,  # not cut by query: an id may hold what a directory's name may not
    )


def refined_gradients_asset(study: Study) -> dg.AssetsDefinition:
    """Refines every query's gradient."""
    table = refined_gradients_table(study.name)

    @dg.asset(
        **asset_arguments(
            table,
            f"study_{study.name}",
            CODE_VERSION,
            STORY,
            owners=study.spec.owners,
            kinds=("torch",),
            checks=[_finite_check(study.name)],
        ),
        deps=[each.asset_key for each in _upstream(study)],
        pool="gpu",
    )
    def refined_gradients(
        context: dg.AssetExecutionContext, lake: Lake, tracking: Tracking
    ) -> Iterator[dg.MaterializeResult]:
        def work(step: Step) -> None:
            _refine(step, study)

        yield from run_step(context, lake, tracking, work, checks=[_finite_check(study.name)])

    return refined_gradients


def stored_refined(step: Reading, study: str, query_id: str, model, modules) -> dict:
    """One query's refined gradient per module name, O×I, where and as `model` has its sums."""
    import torch

    from compute.passes import placement

    rows = step.scan(refined_gradients_table(study)).filter(query_id=query_id).collect()
    parts = rows.partition_by("module", as_dict=True)
    return {
        module.name: torch.from_numpy(stacked(parts[module.name,], index="output", values="gradient")).to(
            *placement(model, module)
        )
        for module in modules
    }


def _finite_check(study: str) -> Check:
    return Check(refined_gradients_table(study), "refined_finite", "Every refined gradient and its residual is finite.")


def _upstream(study: Study) -> tuple[Table, ...]:
    fit = study.spec.curvature.name
    return (
        completions_table(study.name),
        sample_table(fit),
        eigenbasis_table(fit),
        eigenvalues_table(fit),
        checkpoint_table(study.spec.model.name),
        *query_side_tables(study),
    )


def _refine(step: Step, study: Study) -> None:
    table, settings = refined_gradients_table(study.name), study.spec.options.refinement.model_dump()
    settings |= {"damping": study.spec.options.damping}
    origins = (query_side_dtypes(study), study.spec.model.dtype, list(map(step.fingerprint, _upstream(study))))
    stamp = fingerprint("refined_gradients", CODE_VERSION, settings, *origins)
    if step.is_current(table, stamp):
        return
    step.tracking.log_params(settings)
    preview: dict = {}  # filled while the rows are made, before they are written
    step.write(table, _batches(step, study, table, stamp, preview), stamp, metadata=preview)
    step.check(_finite_check(study.name), None)


def _batches(step: Step, study: Study, table: Table, stamp: str, preview: dict) -> Iterator[pa.RecordBatch]:
    from compute.refinement import refined_gradients

    residuals: list[dict] = []
    options = study.spec.options
    model, modules = open_traced_model(step, study)
    query_model = open_traced_model(step, study, query_side=True)[0] if study.spec.query_model else model
    queries = query_sequences(step.scan(completions_table(study.name)).sort("position").collect().to_dicts())
    documents = sample_sequences(step, study.spec.curvature.name)[: options.refinement.documents]
    longest = max(map(len, documents), default=2)
    sizes = {"documents": len(documents), "tokens": longest, "queries": len(queries)}
    refuse_beyond_memory(study, "refined_gradients", model, modules, **sizes)
    total = len(queries) * len(documents) * options.refinement.passes
    with step.progress(f"{study.name}: refined gradients", total, "documents") as progress:
        for refined in refined_gradients(
            model,
            query_model,
            modules,
            queries,
            stored_curvature(step, study, model, modules),
            documents,
            passes=options.refinement.passes,
            token_budget=options.token_budget,
            on_batch=lambda count, _: progress.advance(count),
        ):
            left = refined.residuals[-1] if refined.residuals else 0.0
            residuals.append({"query_id": refined.key, "first pass": refined.residuals[:1], "residual": left})
            for name, gradient_OI in refined.gradients.items():
                yield from _rows(step, study.name, table, (refined.key, name), gradient_OI, left, stamp)
    found = pl.DataFrame(residuals, schema_overrides={"first pass": pl.List(pl.Float64)})
    preview |= {"documents": len(documents), "median residual": float(found["residual"].median() or 0.0)}
    preview["residuals"] = table_of(found.with_columns(pl.col("first pass").list.first()).sort("residual"), limit=12)


def _rows(
    step: Step, study: str, table: Table, names: tuple[str, str], gradient_OI, residual: float, stamp: str
) -> Iterator[pa.RecordBatch]:
    import numpy as np

    query_id, module = names
    values = gradient_OI.cpu().numpy()
    if not (np.isfinite(values).all() and np.isfinite(residual)):
        where = f"study {study}: the refined gradient of query {query_id} at {module}"
        step.check(_finite_check(study), f"{where} is not finite; give a wider model.dtype, or raise options.damping")
    constants = {"query_id": query_id, "module": module, "residual": residual, "fingerprint": stamp}
    yield from matrix_batches(values, table.schema, index="output", values="gradient", constants=constants)
