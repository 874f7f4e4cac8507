"""model/<model>/checkpoint: which weights a model is, byte for byte.

A checkpoint in a directory or on the hub is listed with its digests; one that is trained here is kept in the lake
itself, in blocks, so that any machine that sees the lake can load it.
"""

import hashlib
import os
from collections.abc import Iterator, Sequence
from pathlib import Path

import dagster as dg
import polars as pl
import pyarrow as pa

from assets.figures.previews import table_of
from assets.lake.columns import STAMP
from assets.lake.lake import Lake
from assets.lake.tables import Column, Table
from assets.specs.model import ModelSpec
from assets.step.declaring import asset_arguments
from assets.step.fingerprints import fingerprint
from assets.step.reading import Reading
from assets.step.step import Step, run_step
from assets.tracking.tracking import Tracking
from compute.errors import BadInput

CODE_VERSION = "1"
STORY = "Which weights the model is, byte for byte: a directory, a hub id at a revision, or trained here."
BLOCK_BYTES = 4 * 2**20
CHECKPOINT_FILES = ("*.safetensors", "*.json", "*.txt", "*.model", "*.jinja")


def checkpoint_table(model: str) -> Table:
    return Table(
        key=("model", model, "checkpoint"),
        grain="one row per block of a checkpoint's file (per file, where the files stay outside the lake)",
        columns=(
            Column("file", pa.string(), "Name of the file in the Hugging Face checkpoint."),
            Column("block", pa.int32(), "Number of the block within the file, from 0."),
            Column("content", pa.binary(), "The block; empty where the files stay outside the lake.", nullable=True),
            Column("location", pa.string(), "Directory or hub id of files outside the lake.", nullable=True),
            Column("bytes", pa.int64(), "Size of the whole file."),
            Column("sha256", pa.string(), "Digest of the whole file."),
            STAMP,
        ),
        sort_by=("file", "block"),
        row_group_rows=4,
    )


def named_checkpoint_asset(model: ModelSpec, base: str, owners: Sequence[str] = ()) -> dg.AssetsDefinition:
    """Lists a checkpoint from a directory or the hub, after looking whether it can be loaded."""
    table = checkpoint_table(model.name)

    @dg.asset(
        **asset_arguments(
            table, f"model_{model.name}", CODE_VERSION, STORY, owners=owners, kinds=("torch", "huggingface")
        )
    )
    def checkpoint(context: dg.AssetExecutionContext, lake: Lake, tracking: Tracking) -> Iterator[dg.MaterializeResult]:
        yield from run_step(context, lake, tracking, lambda step: _list_files(step, model, base, table))

    return checkpoint


def _list_files(step: Step, model: ModelSpec, base: str, table: Table) -> None:
    files = _digests(checkpoint_directory(model, base))
    stamp = fingerprint("checkpoint", CODE_VERSION, model.hub, model.revision, files)
    if step.is_current(table, stamp):
        return
    loaded = load_checkpoint(model, base, device="cpu")
    listed = pl.DataFrame([{"file": name, **digest} for name, digest in files.items()])
    metadata = {
        "parameters": _parameters(loaded),
        "architecture": type(loaded).__name__,
        "files": table_of(listed, limit=12, columns=["file", "bytes", "sha256"]),
    }
    step.write(table, _listed(table, model, files, stamp), stamp, metadata=metadata)


def checkpoint_blocks(table: Table, directory: Path, stamp: str) -> Iterator[pa.RecordBatch]:
    """A trained checkpoint's files as rows, a block at a time."""
    for name, digest in sorted(_digests(directory).items()):
        with open(directory / name, "rb") as file:
            for block, content in enumerate(iter(lambda: file.read(BLOCK_BYTES), b"")):
                row = {"file": name, "block": block, "content": content, "location": None, "fingerprint": stamp}
                yield pa.RecordBatch.from_pylist([row | digest], schema=table.schema)


def load_checkpoint(model: ModelSpec, base: str, step: Reading | None = None, *, device: str | None = None):
    """The model, in its declared precision, ready to be traced; one that was trained here comes out of the lake.

    `device` is the best one there unless named: steps outside of the pool gpu, which only look at the model, name cpu.
    """
    from compute.checkpoint import load_model

    settings = {"dtype": model.dtype, "device": device, **model.placement()}
    if model.train:
        return load_model(str(unpacked(step, model)), **settings)
    return load_model(model.location(base), revision=model.revision, **settings)


def refuse_changed_files(step: Reading, model: ModelSpec, base: str) -> None:
    """Raises BadInput where a checkpoint outside of the lake no longer holds the files that were traced."""
    if model.train:
        return
    listed = step.scan(checkpoint_table(model.name)).select("file", "sha256").unique().collect()
    directory = checkpoint_directory(model, base)
    found = {name: digest["sha256"] for name, digest in _digests(directory).items()}
    for file, _ in sorted(set(listed.iter_rows()) ^ set(found.items())):
        raise BadInput(
            f"model {model.name}: {file} in {directory} is not what was traced; restore it, or run the study again"
        )


def unpacked(step: Reading, model: ModelSpec) -> Path:
    """A trained checkpoint as a directory in the local cache, made from the lake the first time."""
    table = checkpoint_table(model.name)
    files = step.scan(table).select("file", "sha256").unique().sort("file").collect().rows()
    directory = Path(step.lake.cache) / "checkpoints" / f"{model.name}-{fingerprint(files)}"
    if not directory.exists():
        partial = directory.with_name(f"{directory.name}.{os.getpid()}")
        partial.mkdir(parents=True, exist_ok=True)
        for batch in step.batches(table):
            for row in batch.to_pylist():
                _write_block(partial / row["file"], row)
        _move(partial, directory)
    return directory


def _write_block(path: Path, row: dict) -> None:
    """Blocks come in any order (Delta keeps none), so each is written at its own place."""
    with open(path, "r+b" if path.exists() else "w+b") as file:
        file.seek(row["block"] * BLOCK_BYTES)
        file.write(row["content"])


def _move(partial: Path, directory: Path) -> None:
    try:
        partial.rename(directory)
    except OSError:  # another process was faster, and its copy is the same
        for file in partial.iterdir():
            file.unlink()
        partial.rmdir()


def checkpoint_directory(model: ModelSpec, base: str) -> Path:
    """The local directory of a named checkpoint; a hub id is fetched into Hugging Face's own cache."""
    location = model.location(base)
    if model.hub:
        from huggingface_hub import snapshot_download

        try:
            return Path(snapshot_download(model.hub, revision=model.revision, allow_patterns=list(CHECKPOINT_FILES)))
        except Exception as error:
            reason = str(error).splitlines()[0]
            raise BadInput(
                f"model {model.name}: {model.hub} at {model.revision} cannot be fetched: {reason}"
            ) from error
    if not (Path(location) / "config.json").is_file():
        raise BadInput(f"model {model.name}: {location} holds no config.json; give the directory of a checkpoint")
    return Path(location)


def _digests(directory: Path) -> dict[str, dict]:
    paths = sorted(path for pattern in CHECKPOINT_FILES for path in directory.glob(pattern))
    if not any(path.suffix == ".safetensors" for path in paths):
        raise BadInput(
            f"model: {directory} holds no safetensors; save the checkpoint again with transformers' save_pretrained"
        )
    return {path.name: {"bytes": path.stat().st_size, "sha256": _sha256(path)} for path in paths}


def _sha256(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _listed(table: Table, model: ModelSpec, files: dict[str, dict], stamp: str) -> pa.Table:
    where = {"block": 0, "content": None, "location": model.hub or model.path, "fingerprint": stamp}
    return pa.Table.from_pylist([{"file": name} | digest | where for name, digest in files.items()], table.schema)


def _parameters(model) -> int:
    from compute.checkpoint import parameter_count

    return parameter_count(model)
