"""study/<study>/query_gradients: each query's gradient per module and method, preconditioned and at low rank."""

from collections.abc import Iterator

import dagster as dg
import polars as pl
import pyarrow as pa

from assets.curvature.factors import eigenbasis_table, eigenvalues_table, stored_curvature
from assets.curvature.sample import sample_sequences
from assets.figures.previews import table_of
from assets.lake.columns import METHOD, MODULE, QUERY_ID, STAMP
from assets.lake.lake import Lake
from assets.lake.matrices import VECTOR, vectors
from assets.lake.tables import Column, Table
from assets.model.memory import gradient_beyond, refuse_beyond_memory
from assets.model.opening import open_traced_models
from assets.specs.study import Study
from assets.step.checks import Check
from assets.step.declaring import asset_arguments
from assets.step.fingerprints import fingerprint
from assets.step.reading import Reading
from assets.step.step import Step, run_step
from assets.study.completions import completions_table, query_sequences, query_side_dtypes, query_side_tables
from assets.study.refined_gradients import refined_gradients_table, stored_refined
from assets.tracking.tracking import Tracking
from compute.errors import BadInput
from compute.methods import refines

CODE_VERSION = "1"
STORY = "The gradient of each completion's loss, preconditioned by the curvature and cut to a low rank."


def query_gradients_table(study: str) -> Table:
    return Table(
        key=("study", study, "query_gradients"),
        grain="one row per component of a query's low-rank gradient of a module, per method",
        columns=(
            METHOD,
            QUERY_ID,
            MODULE,
            Column(
                "component", pa.int32(), "Number of the component; the gradient is the sum of their outer products."
            ),
            Column("left", VECTOR, "The component along the module's outputs."),
            Column("right", VECTOR, "The component along the module's inputs, the bias last where there is one."),
            STAMP,
        ),
        row_group_rows=1_000,
    )


def query_gradients_asset(study: Study) -> dg.AssetsDefinition:
    """Takes each completion's gradient and directs it by each method."""
    table = query_gradients_table(study.name)

    @dg.asset(
        **asset_arguments(
            table,
            f"study_{study.name}",
            CODE_VERSION,
            STORY,
            owners=study.spec.owners,
            kinds=("torch",),
            checks=query_gradients_checks(study),
        ),
        deps=[each.asset_key for each in _upstream(study)],
        pool="gpu",
    )
    def query_gradients(
        context: dg.AssetExecutionContext, lake: Lake, tracking: Tracking
    ) -> Iterator[dg.MaterializeResult]:
        def work(step: Step) -> None:
            _take_gradients(step, study)

        yield from run_step(context, lake, tracking, work, checks=query_gradients_checks(study))

    return query_gradients


def query_gradients_checks(study: Study) -> tuple[Check, ...]:
    return (_finite_check(study.name), _agreement_check(study))


def _agreement_check(study: Study) -> Check:
    least, name = _least_agreement(study)
    told = f"On a sample of documents every query's low-rank scores correlate with full-rank ones at {least} ({name})."
    return Check(query_gradients_table(study.name), "low_rank_agrees", told, blocking=False)


def _least_agreement(study: Study) -> tuple[float, str]:
    """Below which a query is flagged, and the option that says so."""
    options = study.spec.options
    if options.rank_agreement is not None:
        return options.agreement, "options.agreement"
    return options.min_agreement, "options.min_agreement"


def _finite_check(study: str) -> Check:
    return Check(query_gradients_table(study), "gradients_finite", "Every component of every gradient is finite.")


def _upstream(study: Study) -> tuple[Table, ...]:
    fit = study.spec.curvature.name
    refined = (refined_gradients_table(study.name),) if refines(study.spec.options.methods) else ()
    return (
        completions_table(study.name),
        eigenbasis_table(fit),
        eigenvalues_table(fit),
        *query_side_tables(study),
        *refined,
    )


def _settings(study: Study) -> dict:
    settings = study.spec.options.model_dump(include={"methods", "rank", "damping"})
    if study.spec.options.rank == "auto":  # where it is not, it changes nothing
        settings |= study.spec.options.model_dump(include={"agreement", "agreement_documents"})
    return settings


def gradients_stamp(step: Reading, study: Study) -> str:
    """The fingerprint that the gradients have when they are up to date."""
    origins = (query_side_dtypes(study), list(map(step.fingerprint, _upstream(study))))
    return fingerprint("query_gradients", CODE_VERSION, _settings(study), *origins)


def refuse_other_curvature(step: Step, study: Study) -> None:
    """Raises BadInput where the gradients are not of the curvature and damping as they are now."""
    table = query_gradients_table(study.name)
    if step.fingerprint(table) != gradients_stamp(step, study):
        raise BadInput(
            f"study {study.name}: its query gradients are not of the curvature and options as they are now, and "
            f"trackstar whitens documents by these; materialize {table.path} first"
        )


def _take_gradients(step: Step, study: Study) -> None:
    table, settings = query_gradients_table(study.name), _settings(study)
    stamp = gradients_stamp(step, study)
    if step.is_current(table, stamp):
        return
    step.tracking.log_params(settings)
    facts = {"methods": list(settings["methods"]), "rank": settings["rank"], "damping": settings["damping"]}
    agreements: list[tuple[str, str, float]] = []
    rows = _batches(step, study, table, stamp, facts, agreements)
    step.write(table, rows, stamp, metadata=facts)
    step.check(_finite_check(study.name), None)
    _check_agreement(step, study, agreements)


def _check_agreement(step: Step, study: Study, agreements: list[tuple[str, str, float]]) -> None:
    """Flags the query that agrees least, where that is too little. Scores that are all equal agree with nothing."""
    (least, name), told = _least_agreement(study), [each for each in agreements if each[2] == each[2]]
    method, query_id, agreement = min(told, key=lambda each: each[2], default=("", "", 1.0))
    problem = (
        f"study {study.name}: on {study.spec.options.agreement_documents} documents the low-rank {method} scores of "
        f"query {query_id} correlate with full-rank ones at {agreement:.4f}, below {least} ({name}); raise options.rank"
    )
    facts = {"worst": round(agreement, 5), "query": query_id, "method": method} if told else {"measured": False}
    step.check(_agreement_check(study), problem if agreement < least else None, metadata=facts)


def _told_agreements(step: Step, study: Study, agreements: list[tuple[str, str, float]]) -> dict:
    """The agreement of each method, mean and worst query, for Dagster; MLflow gets every query's."""
    if not agreements:
        return {}
    rows = pl.DataFrame(agreements, schema=["method", "query_id", "agreement"], orient="row")
    step.tracking.log_dict({"agreement": rows.to_dicts()}, "low_rank_agreement.json")
    worst = pl.col("agreement").fill_nan(None).arg_min()
    summary = rows.group_by("method", maintain_order=True).agg(
        mean=pl.col("agreement").fill_nan(None).mean(),
        worst=pl.col("agreement").fill_nan(None).min(),
        worst_query=pl.col("query_id").gather(worst).first(),
    )
    step.tracking.log_metrics({"low_rank_agreement_worst": summary["worst"].min() or 1.0}, 0)
    least, name = _least_agreement(study)
    told = (
        f"Correlation of low-rank with full-rank scores on {study.spec.options.agreement_documents} documents of the "
        f"curvature's sample, over the queries; below {least} ({name}) a query is flagged."
    )
    return {"agreement with full rank": dg.MetadataValue.md(f"{told}\n\n{table_of(summary, len(summary)).md_str}")}


def _batches(
    step: Step, study: Study, table: Table, stamp: str, facts: dict, agreements: list[tuple[str, str, float]]
) -> Iterator[pa.RecordBatch]:
    """The rows; when all of them are made, before they are written, `facts` gets the mean rank and `agreements`
    (method, query, correlation) what was measured."""
    from compute.factor_memory import gradient_copies, residence
    from compute.methods import known_method, metrics_of
    from compute.query_gradients import query_gradients

    options = study.spec.options
    of_documents, model, modules = open_traced_models(step, study)
    metrics = metrics_of(method for method in options.methods if not known_method(method).refined)
    copies = gradient_copies(max(1, len(metrics)), options.rank_agreement is not None)
    measured = len(metrics) if options.measures_agreement else 0
    settings = {"measured": measured, "double": study.spec.model.dtype == "float64"}
    held = residence(modules, study.spec.curvature.blocks, options.memory_bytes, copies, **settings)
    if beyond := gradient_beyond(study, "query_gradients", held.bytes_of_query):
        step.context.log.info(f"{study.name}: {beyond}")
    if not held.keeps_all:
        step.context.log.info(
            f"{study.name}: the factors of all modules do not fit into options.memory_mib ({options.memory_mib}); they "
            f"are read module by module, for {held.queries_at_once} queries at a time"
        )
    queries = query_sequences(step.scan(completions_table(study.name)).sort("position").collect().to_dicts())
    longest = max(map(len, queries), default=2)
    sample = agreement_sample(step, study, of_documents, modules)
    of_documents = None  # of two models one is let go where documents pass through none
    sampled = sample.documents if sample else []
    tokens = max(map(len, sampled), default=longest)
    sizes = {"documents": max(len(queries), len(sampled)), "tokens": tokens}
    sizes |= {"queries": len(queries), "query_tokens": longest}
    refuse_beyond_memory(study, "query_gradients", model, modules, **sizes)
    curvature = stored_curvature(step, study, model, modules, keeps_all=held.keeps_all)
    ranks: list[int] = []
    with step.progress(f"{study.name}: query gradients", len(queries), "queries") as progress:
        for method, query_id, gradients in query_gradients(
            model,
            modules,
            queries,
            curvature,
            rank=options.kept_rank,
            agreement=options.rank_agreement,
            sample=sample,
            methods=options.methods,
            queries_at_once=held.queries_at_once,
            refined=lambda query_id: stored_refined(step, study.name, query_id, model, modules),
            on_query=lambda _: progress.advance(1),
            on_agreement=lambda *measured: agreements.append(measured),
        ):
            for module, gradient in gradients.items():
                ranks.append(gradient.rank)
                yield _components(step, study.name, table, (method, query_id, module), gradient, stamp)
    facts["mean rank"] = round(sum(ranks) / max(1, len(ranks)), 1)
    facts |= _told_agreements(step, study, agreements)


def agreement_sample(step: Reading, study: Study, model, modules):
    """Documents on which low ranks are compared with the full one: the first of the curvature's sample, which is in a
    hashed order. None where nothing is to be compared. `model` is the one that documents are scored with."""
    from compute.measured_agreement import AgreementSample

    options = study.spec.options
    if not options.measures_agreement:
        return None
    documents = sample_sequences(step, study.spec.curvature.name)[: options.agreement_documents]
    return AgreementSample(model, modules, documents, options.token_budget)


def _components(
    step: Step, study: str, table: Table, names: tuple[str, str, str], gradient, stamp: str
) -> pa.RecordBatch:
    import numpy as np

    left, right = gradient.left_OR.T.cpu().numpy(), gradient.right_IR.T.cpu().numpy()
    if not (np.isfinite(left).all() and np.isfinite(right).all()):
        method, query_id, module = names
        problem = f"the {method} gradient of query {query_id} at {module} is not finite; see its loss and the damping"
        step.check(_finite_check(study), f"study {study}: {problem}")
    columns = [pa.array([name] * len(left)) for name in names]
    columns += [pa.array(range(len(left)), pa.int32()), vectors(left), vectors(right), pa.array([stamp] * len(left))]
    return pa.RecordBatch.from_arrays(columns, schema=table.schema)
