"""curvature/<fit>/covariances → eigenbasis → eigenvalues: the EK-FAC fit on the pinned sample."""

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

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
from assets.model.memory import refuse_beyond_memory, refuse_parts
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

    sizes: list[dict] = []

    def fit_on(model, modules, documents, **settings):
        return fit_covariances(model, modules, documents, blocks=study.spec.curvature.blocks, **settings)

    def rows() -> Iterator[pa.RecordBatch]:
        for name, each in _fitted(step, study, "covariances", fit_on):
            step.check(check, covariance_defect(name, each))
            inputs, outputs = len(each.activation_II), len(each.gradient_OO)
            sizes.append({"module": name, "inputs": inputs, "outputs": outputs, "tokens": each.tokens})
            yield from covariance_batches(table, name, each, stamp)

    preview: dict = {}  # filled while the rows are made, before they are written
    told = _then(rows(), lambda: preview.update(_matrices(study, sizes)))
    step.write(table, told, stamp, metadata=preview)


def _matrices(study: Study, sizes: list[dict]) -> dict:
    found = {"modules": len(sizes), "matrices": table_of(pl.DataFrame(sizes), limit=12)}
    return found if study.spec.curvature.blocks == 1 else found | {"blocks": study.spec.curvature.blocks}


def _decompose(step: Step, study: Study, table: Table, upstream: tuple[Table, ...], check: Check) -> None:
    stamp = fingerprint("eigenbasis", CODE_VERSION, step.fingerprint(upstream[0]))
    if not step.is_current(table, stamp):
        largest: list[dict] = []
        preview: dict = {}  # filled while the rows are made, before they are written
        _refuse_large_decompositions(step, study, upstream[0])
        batches = _decomposed(step, study.spec.curvature.name, stamp, check, largest)
        step.write(table, _then(batches, lambda: preview.update(_largest(largest))), stamp, metadata=preview)


def _refuse_large_decompositions(step: Step, study: Study, covariances: Table) -> None:
    """Raises BadInput where the largest matrix, or its block, cannot be decomposed in the memory that is there."""
    from compute.cost import decomposition_bytes

    sides = step.scan(covariances).group_by("module", "side").agg(pl.len()).select(pl.col("len").max())
    largest = -(-sides.collect().item() // study.spec.curvature.blocks)
    refuse_parts(study, "eigenbasis", {"decomposition of the largest matrix": decomposition_bytes(largest)})


def _fit_eigenvalues(step: Step, study: Study, table: Table, upstream: tuple[Table, ...], check: Check) -> None:
    stamp = _stamp(step, study, "eigenvalues", upstream)
    if step.is_current(table, stamp):
        return
    from compute.eigenvalues import eigenvalue_defect, fit_eigenvalues

    spectra: list[pl.DataFrame] = []

    def fit_on(model, modules, documents, **settings):
        basis = placed_eigenbasis(step, study.spec.curvature.name, model, modules)
        return fit_eigenvalues(model, modules, basis, documents, **settings)

    def rows() -> Iterator[pa.RecordBatch]:
        for name, each in _fitted(step, study, "eigenvalues", fit_on):
            step.check(check, eigenvalue_defect(name, each))
            spectra.append(spectrum_rows(name, each.cpu().numpy()))
            yield from eigenvalue_batches(table, name, each, stamp)

    preview: dict = {}  # filled while the rows are made, before they are written
    told = _then(rows(), lambda: preview.update(_spectrum(step, spectra)))
    step.write(table, told, stamp, metadata=preview)


def _spectrum(step: Step, spectra: list[pl.DataFrame]) -> dict:
    figure = kept_figure(step.tracking, "spectrum", lambda: eigenvalue_spectrum(pl.concat(spectra)))
    return {"modules": len(spectra), **figure}


def _documents_and_model(study: Study) -> tuple[Table, ...]:
    return (sample_table(study.spec.curvature.name), checkpoint_table(study.spec.model.name))


def _stamp(step: Step, study: Study, stage: str, upstream: tuple[Table, ...]) -> str:
    fit, dtype = study.spec.curvature, study.spec.model.dtype
    return fingerprint(stage, CODE_VERSION, fit.identity(), dtype, [step.fingerprint(table) for table in upstream])


def _fitted(step: Step, study: Study, stage: str, fit_on: Callable) -> Iterator[tuple[str, Any]]:
    """What is fitted of each module by name, by as many passes over the pinned sample as `curvature.memory_mib` asks
    for; each module's is let go when the next is asked for."""
    from compute.factor_memory import bytes_to_fit, module_groups

    fit, double = study.spec.curvature, study.spec.model.dtype == "float64"
    model, modules = open_traced_model(step, study)
    held = partial(bytes_to_fit, stage, blocks=fit.blocks, double=double)
    groups = module_groups(modules, held, fit.memory_bytes)
    documents = sample_sequences(step, fit.name)
    tokens = sum(map(len, documents))
    refuse_beyond_memory(study, stage, model, modules, documents=len(documents), tokens=tokens // len(documents))
    step.tracking.log_params(
        {
            "labels": fit.labels,
            "seed": fit.seed,
            "modules": len(modules),
            "sample": len(documents),
            "passes": len(groups),
        }
    )
    if len(groups) > 1:
        step.context.log.info(
            f"{fit.name}: {stage} of {len(modules)} modules do not fit into curvature.memory_mib ({fit.memory_mib}) "
            f"at once; {len(groups)} passes over the sample"
        )
    tokens *= len(groups)
    with step.progress(f"{fit.name}: {stage}", tokens, "tokens") as progress:
        for group in groups:
            fitted = fit_on(
                model,
                group,
                documents,
                labels=fit.labels,
                seed=fit.seed,
                token_budget=fit.token_budget,
                on_batch=lambda _, batch_tokens: progress.advance(batch_tokens),
            )
            for module in group:
                yield module.name, fitted.pop(module.name)
    step.tracking.log_metrics({"tokens_per_second": tokens / progress.seconds}, 0)


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
            values = (basis.activation_values_A.max(), basis.gradient_values_S.max())
            largest.append({"module": name, **dict(zip("AS", map(float, values), strict=True))})
            yield from eigenbasis_batches(eigenbasis_table(fit), name, basis, stamp)
            progress.advance(1)
