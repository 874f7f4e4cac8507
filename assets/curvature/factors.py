"""The curvature's tables, and the way from their rows to the engine's tensors and back, one module at a time."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import polars as pl
import pyarrow as pa

from assets.curvature.sample import sample_table
from assets.lake.columns import MODULE, STAMP
from assets.lake.matrices import VECTOR, matrix_batches, stacked
from assets.lake.tables import Column, Table

if TYPE_CHECKING:
    from assets.specs.study import Study
    from assets.step.reading import Reading

SIDE = Column("side", pa.string(), "activation (A, the module's inputs) or gradient (S, its outputs' gradients).")
ROWS_PER_GROUP = 256


def covariances_table(fit: str) -> Table:
    return Table(
        key=("curvature", fit, "covariances"),
        grain="one row per row of a module's covariance matrix (A or S)",
        columns=(
            MODULE,
            SIDE,
            Column("row", pa.int32(), "Row of the matrix; the last row of A belongs to the bias, where there is one."),
            Column("covariance", VECTOR, "The row: means over unmasked tokens of a·aᵀ or g·gᵀ."),
            Column("tokens", pa.int64(), "Tokens that the means are over."),
            STAMP,
        ),
        partition_by=("module",),
        row_group_rows=ROWS_PER_GROUP,
    )


def eigenbasis_table(fit: str) -> Table:
    return Table(
        key=("curvature", fit, "eigenbasis"),
        grain="one row per eigenvector of a module's covariance matrix (A or S)",
        columns=(
            MODULE,
            SIDE,
            Column("direction", pa.int32(), "Number of the eigenvector, by ascending eigenvalue."),
            Column("eigenvalue", pa.float32(), "Its eigenvalue: mean square of activations or gradients along it."),
            Column("eigenvector", VECTOR, "The eigenvector, of unit length; its sign is arbitrary."),
            STAMP,
        ),
        partition_by=("module",),
        row_group_rows=ROWS_PER_GROUP,
    )


def eigenvalues_table(fit: str) -> Table:
    return Table(
        key=("curvature", fit, "eigenvalues"),
        grain="one row per output direction of a module: its corrected eigenvalues along all input directions",
        columns=(
            MODULE,
            Column("direction", pa.int32(), "Number of the eigenvector of S."),
            Column("eigenvalues", VECTOR, "Λ along the eigenvectors of A: mean over documents of squared gradients."),
            STAMP,
        ),
        partition_by=("module",),
        row_group_rows=ROWS_PER_GROUP,
    )


def covariance_batches(table: Table, module: str, covariances, stamp: str) -> Iterator[pa.RecordBatch]:
    """One module's A and S as rows."""
    for side, matrix in (("activation", covariances.activation_II), ("gradient", covariances.gradient_OO)):
        constants = {"module": module, "side": side, "tokens": covariances.tokens, "fingerprint": stamp}
        yield from matrix_batches(
            matrix.cpu().numpy(), table.schema, index="row", values="covariance", constants=constants
        )


def eigenbasis_batches(table: Table, module: str, basis, stamp: str) -> Iterator[pa.RecordBatch]:
    """One module's eigenvectors as rows (they are the columns of Q)."""
    sides = (
        ("activation", basis.activation_vectors_IA, basis.activation_values_A),
        ("gradient", basis.gradient_vectors_OS, basis.gradient_values_S),
    )
    for side, vectors, values in sides:
        yield from matrix_batches(
            vectors.T.cpu().numpy(),
            table.schema,
            index="direction",
            values="eigenvector",
            constants={"module": module, "side": side, "fingerprint": stamp},
            by_row={"eigenvalue": values.cpu().numpy()},
        )


def eigenvalue_batches(table: Table, module: str, eigenvalues, stamp: str) -> Iterator[pa.RecordBatch]:
    """One module's Λ as rows."""
    yield from matrix_batches(
        eigenvalues.cpu().numpy(),
        table.schema,
        index="direction",
        values="eigenvalues",
        constants={"module": module, "fingerprint": stamp},
    )


def stored_covariances(step: Reading, fit: str, module: str):
    """One module's A and S as the engine takes them."""
    import torch

    from compute.covariances import ModuleCovariances

    rows = step.scan(covariances_table(fit), module=module).collect()
    activation, gradient = (
        torch.from_numpy(stacked(rows.filter(side=side), index="row", values="covariance"))
        for side in ("activation", "gradient")
    )
    return ModuleCovariances(activation, gradient, rows["tokens"][0])


def stored_eigenbasis(step: Reading, fit: str, module: str):
    """One module's eigenbasis as the engine takes it."""
    import torch

    from compute.eigenbasis import ModuleEigenbasis

    rows = step.scan(eigenbasis_table(fit), module=module).sort("direction").collect()
    parts = []
    for side in ("activation", "gradient"):
        of_side = rows.filter(side=side)
        parts.append(torch.from_numpy(stacked(of_side, index="direction", values="eigenvector")).T)
        parts.append(torch.from_numpy(of_side["eigenvalue"].to_numpy(writable=True)))
    return ModuleEigenbasis(*parts)


def stored_eigenvalues(step: Reading, fit: str, module: str):
    """One module's Λ as the engine takes it."""
    import torch

    rows = step.scan(eigenvalues_table(fit), module=module).collect()
    return torch.from_numpy(stacked(rows, index="direction", values="eigenvalues"))


def placed_eigenbasis(step: Reading, fit: str, model, modules) -> dict:
    """The eigenbasis of every tracked module by name, on the model's device and in the dtype of its sums."""
    from compute.passes import placement

    place = placement(model)
    return {module.name: stored_eigenbasis(step, fit, module.name).to(*place) for module in modules}


def document_tokens(step: Reading, fit: str) -> dict[str, float]:
    """The mean number of a sampled document's tokens that reach each module."""
    documents = step.scan(sample_table(fit)).select(pl.len()).collect().item()
    rows = step.scan(covariances_table(fit)).group_by("module").agg(pl.col("tokens").first()).collect()
    return {module: tokens / max(1, documents) for module, tokens in rows.iter_rows()}


def stored_curvature(step: Reading, study: Study, model, modules):
    """The whole fit as the engine takes it, damped as the study says."""
    from compute.curvature import Curvature
    from compute.passes import placement

    fit, options, place = study.spec.curvature.name, study.spec.options, placement(model)
    eigenvalues = {module.name: stored_eigenvalues(step, fit, module.name).to(*place) for module in modules}
    tokens = document_tokens(step, fit) if "kfac" in options.methods else None
    return Curvature(placed_eigenbasis(step, fit, model, modules), eigenvalues, options.damping, tokens)
