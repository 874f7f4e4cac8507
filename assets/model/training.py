"""model/<model>/sample and /checkpoint of a model that is trained on the study's own corpus.

The sample pins which documents, at which version of their table, the model saw: documents that arrive later do not make
it stale. Materialize the sample by hand to train on what the corpus holds then.
"""

import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import dagster as dg
import polars as pl
import pyarrow as pa

from assets.corpus.documents import document_identity, documents_table
from assets.corpus.tokenizer import stored_tokenizer, tokenizer_table
from assets.figures.charts import training_loss
from assets.figures.previews import kept_figure, table_of
from assets.lake.columns import DOCUMENT_ID, POSITION, SHARD, STAMP
from assets.lake.lake import Lake
from assets.lake.tables import Column, Table
from assets.model.checkpoint import checkpoint_blocks, checkpoint_table, unpacked
from assets.model.registry import register_checkpoint
from assets.specs.study import Study
from assets.step.declaring import asset_arguments
from assets.step.fingerprints import fingerprint
from assets.step.step import Step, run_step
from assets.tracking.progress import note
from assets.tracking.tracking import Tracking
from compute.errors import BadInput

CODE_VERSION = "1"
SAMPLE_STORY = "Pinned: documents that arrive later do not make it stale. Materialize it by hand to train anew."
STORY = "Trained from scratch with transformers' Trainer on the pinned sample; the files are kept in the lake."


def training_sample_table(model: str) -> Table:
    return Table(
        key=("model", model, "sample"),
        grain="one row per document that the model is trained on",
        columns=(
            POSITION,
            DOCUMENT_ID,
            SHARD,
            Column("documents_version", pa.int64(), "Delta version of the corpus's documents that it is read from."),
            STAMP,
        ),
        sort_by=("position",),
    )


def training_sample_asset(study: Study) -> dg.AssetsDefinition:
    """Pins the corpus's documents as they are now."""
    corpus, model = study.spec.corpus, study.spec.model
    table, documents = training_sample_table(model.name), documents_table(corpus.name)

    @dg.asset(
        **asset_arguments(table, f"model_{model.name}", CODE_VERSION, SAMPLE_STORY, owners=study.spec.owners),
        deps=[dg.AssetDep(documents.asset_key, partition_mapping=dg.AllPartitionMapping())],
    )
    def sample(context: dg.AssetExecutionContext, lake: Lake, tracking: Tracking) -> Iterator[dg.MaterializeResult]:
        yield from run_step(context, lake, tracking, lambda step: _pin_documents(step, study, table))

    return sample


def _pin_documents(step: Step, study: Study, table: Table) -> None:
    corpus, documents = study.spec.corpus, documents_table(study.spec.corpus.name)
    tokenizer = step.fingerprint(tokenizer_table(corpus.name))
    settings = fingerprint("training_sample", CODE_VERSION, document_identity(corpus), tokenizer)
    if step.is_pinned(table, settings):
        return
    rows = step.scan(documents).select("document_id", "shard", "position").sort("shard", "position").collect()
    if rows.is_empty():
        raise BadInput(f"corpus {corpus.name}: holds no documents to train model {study.spec.model.name} on")
    count, version = len(rows), step.version(documents)
    # The content counts, not the version: maintenance makes versions too.
    stamp = fingerprint(settings, sorted(step.shard_fingerprints(documents).items()))
    data = {
        "position": pa.array(range(count), pa.int64()),
        "document_id": rows["document_id"].to_arrow(),
        "shard": rows["shard"].to_arrow(),
        "documents_version": pa.array([version] * count, pa.int64()),
        "fingerprint": [stamp] * count,
    }
    step.write(table, pa.table(data), stamp, settings=settings, metadata={"documents": table_of(rows)})


def trained_checkpoint_asset(study: Study) -> dg.AssetsDefinition:
    """Trains the model from scratch with transformers' Trainer; the loss goes to MLflow step by step."""
    corpus, model = study.spec.corpus, study.spec.model
    table, sample = checkpoint_table(model.name), training_sample_table(model.name)
    upstream = (sample, tokenizer_table(corpus.name))

    @dg.asset(
        **asset_arguments(
            table, f"model_{model.name}", CODE_VERSION, STORY, owners=study.spec.owners, kinds=("torch", "huggingface")
        ),
        deps=[each.asset_key for each in upstream],
        pool="gpu",
    )
    def checkpoint(context: dg.AssetExecutionContext, lake: Lake, tracking: Tracking) -> Iterator[dg.MaterializeResult]:
        yield from run_step(context, lake, tracking, lambda step: _train_and_keep(step, study, table))

    return checkpoint


def _train_and_keep(step: Step, study: Study, table: Table) -> None:
    model = study.spec.model
    sample = training_sample_table(model.name)
    stamp = fingerprint("training", CODE_VERSION, model.train, step.fingerprint(sample))
    if step.is_current(table, stamp):
        _register(step, study, stamp, lambda: unpacked(step, model))  # MLflow may have been down when it was trained
        return
    with tempfile.TemporaryDirectory() as directory:
        summary = _train(step, study, directory)
        step.write(table, checkpoint_blocks(table, Path(directory), stamp), stamp, metadata=summary)
        _register(step, study, stamp, lambda: Path(directory))


def _register(step: Step, study: Study, stamp: str, directory: Callable[[], Path]) -> None:
    """Makes the checkpoint a version of a registered model of MLflow, once per set of weights."""
    name = study.spec.model.name
    tags = {
        "fingerprint": stamp,
        "delta_version": step.lake.version(checkpoint_table(name)),
        "dagster_run_id": step.context.run.run_id,
    }
    register_checkpoint(step.tracking, name, directory, tags)


def _train(step: Step, study: Study, directory: str) -> dict:
    from compute.training import TrainSettings, train_causal_lm

    corpus, model = study.spec.corpus, study.spec.model
    tokenizer, _ = stored_tokenizer(step, corpus.name)
    settings = model.train.model_dump()
    if settings["context"] < corpus.max_tokens:
        raise BadInput(
            f"model {model.name}: train.context ({settings['context']}) is shorter than the corpus's max_tokens "
            f"({corpus.max_tokens}); raise the one or lower the other"
        )
    step.tracking.log_params(settings)
    losses: list[dict] = []

    def on_log(metrics: dict, number: int) -> None:
        step.tracking.log_metrics(metrics, number)
        if "loss" in metrics:
            losses.append({"step": number, "loss": metrics["loss"]})

    with step.progress(f"{model.name}: training", 1, "steps") as progress:
        if model.train.max_minutes is not None:
            progress.seconds_at_most = 60 * model.train.max_minutes

        def on_progress(done: int, total: int) -> None:
            progress.total = total
            progress.advance(done - progress.done)

        summary = train_causal_lm(
            _training_documents(step, study),
            tokenizer,
            TrainSettings(**settings),
            directory=directory,
            on_log=on_log,
            on_progress=on_progress,
        )
    if summary.steps < summary.planned_steps:
        note(
            f"{model.name}: training was ended by train.max_minutes ({model.train.max_minutes:g}) at {summary.steps:,} "
            f"of {summary.planned_steps:,} steps: the model has learned less than it could"
        )
    return {
        "parameters": summary.parameters,
        "final loss (nats per token)": round(summary.loss, 4),
        "optimizer steps": summary.steps,
        "trained tokens": summary.tokens,
        "training seconds": round(summary.seconds, 1),
        **kept_figure(step.tracking, "training_loss", lambda: training_loss(pl.DataFrame(losses))),
    }


def _training_documents(step: Step, study: Study) -> list[list[int]]:
    """Token ids of the pinned documents, at the pinned version."""
    sample = step.scan(training_sample_table(study.spec.model.name)).collect()
    documents = documents_table(study.spec.corpus.name)
    step.pin(documents, sample["documents_version"][0])
    tokens = step.scan(documents).select("document_id", "token_ids").collect()
    by_position = sample.join(tokens, on="document_id", how="left").sort("position")
    return by_position["token_ids"].to_list()
