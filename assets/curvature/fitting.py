"""curvature/<fit>/covariances → eigenbasis → eigenvalues: the EK-FAC fit on the pinned sample."""

from collections.abc import Callable, Iterator

import dagster as dg
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
from assets.fingerprints import fingerprint
from assets.lake import Lake
from assets.model.checkpoint import checkpoint_table
from assets.model.opening import open_traced_model
from assets.step import Step, asset_arguments, open_step
from assets.study.spec import Study
from assets.tracking import Tracking

CODE_VERSION = "1"


def covariances_asset(study: Study) -> dg.AssetsDefinition:
    """A and S of every tracked module."""
    fit = study.spec.curvature
    table, upstream = covariances_table(fit.name), _documents_and_model(study)

    @dg.asset(**asset_arguments(table, f"curvature_{fit.name}", CODE_VERSION), deps=_keys(upstream), pool="gpu")
    def covariances(context: dg.AssetExecutionContext, lake: Lake, tracking: Tracking) -> None:
        with open_step(context, lake, tracking) as step:
            stamp = _stamp(step, study, "covariances", upstream)
            if step.is_current(table, stamp):
                return
            from compute.covariances import fit_covariances

            fitted = _pass_over_sample(step, study, "covariances", fit_covariances)
            batches = (b for name, each in fitted.items() for b in covariance_batches(table, name, each, stamp))
            step.write(table, batches, stamp, metadata={"modules": len(fitted)})

    return covariances


def eigenbasis_asset(study: Study) -> dg.AssetsDefinition:
    """Q_A and Q_S of every tracked module, decomposed in float64, one module in memory at a time."""
    fit = study.spec.curvature
    table, upstream = eigenbasis_table(fit.name), covariances_table(fit.name)

    @dg.asset(**asset_arguments(table, f"curvature_{fit.name}", CODE_VERSION), deps=_keys([upstream]), pool="gpu")
    def eigenbasis(context: dg.AssetExecutionContext, lake: Lake, tracking: Tracking) -> None:
        with open_step(context, lake, tracking) as step:
            stamp = fingerprint("eigenbasis", CODE_VERSION, step.fingerprint(upstream))
            if not step.is_current(table, stamp):
                step.write(table, _decomposed(step, fit.name, stamp), stamp)

    return eigenbasis


def eigenvalues_asset(study: Study) -> dg.AssetsDefinition:
    """Λ of every tracked module."""
    fit = study.spec.curvature
    basis_table = eigenbasis_table(fit.name)
    table, upstream = eigenvalues_table(fit.name), (basis_table, *_documents_and_model(study))

    @dg.asset(**asset_arguments(table, f"curvature_{fit.name}", CODE_VERSION), deps=_keys(upstream), pool="gpu")
    def eigenvalues(context: dg.AssetExecutionContext, lake: Lake, tracking: Tracking) -> None:
        with open_step(context, lake, tracking) as step:
            stamp = _stamp(step, study, "eigenvalues", upstream)
            if step.is_current(table, stamp):
                return
            from compute.eigenvalues import fit_eigenvalues

            def fit_on(model, modules, documents, **settings):
                basis = placed_eigenbasis(step, fit.name, model, modules)
                return fit_eigenvalues(model, modules, basis, documents, **settings)

            fitted = _pass_over_sample(step, study, "eigenvalues", fit_on)
            batches = (b for name, each in fitted.items() for b in eigenvalue_batches(table, name, each, stamp))
            step.write(table, batches, stamp, metadata={"modules": len(fitted)})

    return eigenvalues


def _documents_and_model(study: Study) -> tuple:
    return (sample_table(study.spec.curvature.name), checkpoint_table(study.spec.model.name))


def _keys(tables) -> list[dg.AssetKey]:
    return [dg.AssetKey(table.key) for table in tables]


def _stamp(step: Step, study: Study, stage: str, upstream) -> str:
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


def _decomposed(step: Step, fit: str, stamp: str) -> Iterator[pa.RecordBatch]:
    from compute.eigenbasis import decompose_module

    names = step.scan(covariances_table(fit)).select("module").unique().sort("module").collect()["module"]
    with step.progress(f"{fit}: eigenbasis", len(names), "modules") as progress:
        for name in names:
            basis = decompose_module(stored_covariances(step, fit, name))
            yield from eigenbasis_batches(eigenbasis_table(fit), name, basis, stamp)
            progress.advance(1)
