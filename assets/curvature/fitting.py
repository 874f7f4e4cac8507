"""curvature/<fit>/covariances → eigenbasis → eigenvalues: the EK-FAC fit on the pinned sample."""

from collections.abc import Callable, Iterator

import dagster as dg
import polars as pl
import pyarrow as pa

from assets.curvature.factors import (
    covariance_batches,
    covariances_table,
    eigenbasis_batches,
    eigenbasis_table,
    eigenvalue_batches,
    eigenvalues_table,
    placed_eigenbasis,
    stored_covariances,
)
from assets.curvature.sample import sample_sequences, sample_table
from assets.figures.previews import kept_figure, table_of
from assets.figures.spectrum import eigenvalue_spectrum, spectrum_rows
from assets.lake.lake import Lake
from assets.lake.tables import Table
from assets.model.checkpoint import checkpoint_table
from assets.model.opening import open_traced_model
from assets.specs.study import Study
from assets.step.checks import Check
from assets.step.declaring import asset_arguments
from assets.step.fingerprints import fingerprint
from assets.step.step import Step, run_step
from assets.tracking.tracking import Tracking

CODE_VERSION = "1"


def covariances_asset(study: Study) -> dg.AssetsDefinition:
    """A and S of every tracked module."""
    table = covariances_table(study.spec.curvature.name)
    upstream = _documents_and_model(study)
    check = Check(
        table,
        "symmetric_positive_semidefinite",
        "Every A and S is finite, symmetric and has no negative eigenvalue, to rounding.",
    )
    story = "Means over the sample's tokens of a·aᵀ (A, a module's inputs) and g·gᵀ (S, its outputs' gradients)."
    return _fit_asset("covariances", study, table, upstream, check, story, _fit_covariances)


def eigenbasis_asset(study: Study) -> dg.AssetsDefinition:
    """Q_A and Q_S of every tracked module, decomposed in float64, one module in memory at a time."""
    table = eigenbasis_table(study.spec.curvature.name)
    upstream = (covariances_table(study.spec.curvature.name),)
    check = Check(table, "orthonormal", "The eigenvectors of every A and S are orthogonal and of unit length.")
    story = "The directions in which the curvature is diagonal: eigenvectors of A and S, decomposed in float64."
    return _fit_asset("eigenbasis", study, table, upstream, check, story, _decompose)


def eigenvalues_asset(study: Study) -> dg.AssetsDefinition:
    """Λ of every tracked module."""
    table = eigenvalues_table(study.spec.curvature.name)
    upstream = (eigenbasis_table(study.spec.curvature.name), *_documents_and_model(study))
    check = Check(table, "eigenvalues_non_negative", "Every corrected eigenvalue is finite and not negative.")
    story = "Λ, the corrected eigenvalues: means over documents of squared gradients in the eigenbasis."
    return _fit_asset("eigenvalues", study, table, upstream, check, story, _fit_eigenvalues)


Work = Callable[[Step, Study, Table, tuple[Table, ...], Check], None]


def _fit_asset(
    name: str, study: Study, table: Table, upstream: tuple[Table, ...], check: Check, story: str, work: Work
) -> dg.AssetsDefinition:
    @dg.asset(
        **asset_arguments(
            table,
            f"curvature_{study.spec.curvature.name}",
            CODE_VERSION,
            story,
            owners=study.spec.owners,
            kinds=("torch",),
            checks=[check],
        ),
        deps=[each.asset_key for each in upstream],
        pool="gpu",
    )
    def fit(context: dg.AssetExecutionContext, lake: Lake, tracking: Tracking) -> Iterator[dg.MaterializeResult]:
        def fit_once(step: Step) -> None:
            work(step, study, table, upstream, check)

        yield from run_step(context, lake, tracking, fit_once, checks=[check])

    return fit


def _fit_covariances(step: Step, study: Study, table: Table, upstream: tuple[Table, ...], check: Check) -> None:
    stamp = _stamp(step, study, "covariances", upstream)
    if step.is_current(table, stamp):
        return
    from compute.covariances import covariance_defect, fit_covariances

    fitted = _pass_over_sample(step, study, "covariances", fit_covariances)
    for name, module in fitted.items():
        step.check(check, covariance_defect(name, module))
    batches = (b for name, each in fitted.items() for b in covariance_batches(table, name, each, stamp))
    sizes = [
        {"module": name, "inputs": len(each.activation_II), "outputs": len(each.gradient_OO), "tokens": each.tokens}
        for name, each in fitted.items()
    ]
    preview = {"modules": len(fitted), "matrices": table_of(pl.DataFrame(sizes), limit=12)}
    step.write(table, batches, stamp, metadata=preview)


def _decompose(step: Step, study: Study, table: Table, upstream: tuple[Table, ...], check: Check) -> None:
    stamp = fingerprint("eigenbasis", CODE_VERSION, step.fingerprint(upstream[0]))
    if not step.is_current(table, stamp):
        largest: list[dict] = []
        preview: dict = {}  # filled while the rows are made, before they are written
        batches = _decomposed(step, study.spec.curvature.name, stamp, check, largest)
        step.write(table, _then(batches, lambda: preview.update(_largest(largest))), stamp, metadata=preview)


def _fit_eigenvalues(step: Step, study: Study, table: Table, upstream: tuple[Table, ...], check: Check) -> None:
    stamp = _stamp(step, study, "eigenvalues", upstream)
    if step.is_current(table, stamp):
        return
    from compute.eigenvalues import eigenvalue_defect, fit_eigenvalues

    def fit_on(model, modules, documents, **settings):
        basis = placed_eigenbasis(step, study.spec.curvature.name, model, modules)
        return fit_eigenvalues(model, modules, basis, documents, **settings)

    fitted = _pass_over_sample(step, study, "eigenvalues", fit_on)
    for name, eigenvalues in fitted.items():
        step.check(check, eigenvalue_defect(name, eigenvalues))
    batches = (b for name, each in fitted.items() for b in eigenvalue_batches(table, name, each, stamp))
    figure = kept_figure(step.tracking, "spectrum", lambda: eigenvalue_spectrum(_spectra(fitted)))
    step.write(table, batches, stamp, metadata={"modules": len(fitted), **figure})


def _spectra(fitted: dict) -> pl.DataFrame:
    return pl.concat([spectrum_rows(name, each.cpu().numpy()) for name, each in fitted.items()])


def _documents_and_model(study: Study) -> tuple[Table, ...]:
    return (sample_table(study.spec.curvature.name), checkpoint_table(study.spec.model.name))


def _stamp(step: Step, study: Study, stage: str, upstream: tuple[Table, ...]) -> str:
    fit, dtype = study.spec.curvature, study.spec.model.dtype
    return fingerprint(stage, CODE_VERSION, fit.identity(), dtype, [step.fingerprint(table) for table in upstream])


def _pass_over_sample(step: Step, study: Study, stage: str, fit_on: Callable) -> dict:
    """One pass of the model over the pinned sample, with its progress and throughput."""
    fit = study.spec.curvature
    model, modules = open_traced_model(step, study)
    documents = sample_sequences(step, fit.name)
    step.tracking.log_params(
        {"labels": fit.labels, "seed": fit.seed, "modules": len(modules), "sample": len(documents)}
    )
    tokens = sum(map(len, documents))
    with step.progress(f"{fit.name}: {stage}", tokens, "tokens") as progress:
        fitted = fit_on(
            model,
            modules,
            documents,
            labels=fit.labels,
            seed=fit.seed,
            token_budget=fit.token_budget,
            on_batch=lambda _, batch_tokens: progress.advance(batch_tokens),
        )
    step.tracking.log_metrics({"tokens_per_second": tokens / progress.seconds}, 0)
    return fitted


def _largest(found: list[dict]) -> dict:
    return {"largest eigenvalues": table_of(pl.DataFrame(found), limit=12)}


def _then(batches: Iterator[pa.RecordBatch], finish: Callable[[], None]) -> Iterator[pa.RecordBatch]:
    yield from batches
    finish()


def _decomposed(step: Step, fit: str, stamp: str, check: Check, largest: list[dict]) -> Iterator[pa.RecordBatch]:
    from compute.eigenbasis import Decomposition, basis_defect

    names = step.scan(covariances_table(fit)).select("module").unique().sort("module").collect()["module"]
    decomposition = Decomposition()
    with step.progress(f"{fit}: eigenbasis", len(names), "modules") as progress:
        for name in names:
            basis = decomposition.of_module(stored_covariances(step, fit, name))
            step.check(check, basis_defect(name, basis))
            values = (basis.activation_values_A[-1], basis.gradient_values_S[-1])
            largest.append({"module": name, **dict(zip("AS", map(float, values), strict=True))})
            yield from eigenbasis_batches(eigenbasis_table(fit), name, basis, stamp)
            progress.advance(1)
