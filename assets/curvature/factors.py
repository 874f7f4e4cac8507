"""The curvature's tables, and the way from their rows to the engine's tensors and back, one module at a time.

Where A and S are cut into diagonal blocks (`curvature.blocks`), rows hold what lies in their block, and no zeros.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import polars as pl
import pyarrow as pa

from assets.curvature.sample import sample_table
from assets.lake.columns import MODULE, STAMP
from assets.lake.matrices import VECTOR, diagonal_blocks, matrix_batches, stacked
from assets.lake.tables import Column, Table

if TYPE_CHECKING:
    import numpy as np

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
            Column("covariance", VECTOR, "The row in its diagonal block: means over unmasked tokens of a·aᵀ or g·gᵀ."),
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
            Column("direction", pa.int32(), "Number of the eigenvector: by block, and by ascending eigenvalue."),
            Column("eigenvalue", pa.float32(), "Its eigenvalue: mean square of activations or gradients along it."),
            Column("eigenvector", VECTOR, "The eigenvector in its diagonal block, of unit length, of either sign."),
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
    from compute.block_diagonal import blocks_of

    for side, matrix in (("activation", covariances.activation_II), ("gradient", covariances.gradient_OO)):
        constants, first = {"module": module, "side": side, "tokens": covariances.tokens, "fingerprint": stamp}, 0
        for block in blocks_of(matrix):
            named = {"index": "row", "values": "covariance", "constants": constants, "first": first}
            yield from matrix_batches(block.cpu().numpy(), table.schema, **named)
            first += len(block)


def eigenbasis_batches(table: Table, module: str, basis, stamp: str) -> Iterator[pa.RecordBatch]:
    """One module's eigenvectors as rows (they are the columns of Q)."""
    from compute.block_diagonal import blocks_of

    sides = (
        ("activation", basis.activation_vectors_IA, basis.activation_values_A),
        ("gradient", basis.gradient_vectors_OS, basis.gradient_values_S),
    )
    for side, vectors, values in sides:
        constants, first = {"module": module, "side": side, "fingerprint": stamp}, 0
        for block in blocks_of(vectors):
            yield from matrix_batches(
                block.T.cpu().numpy(),
                table.schema,
                index="direction",
                values="eigenvector",
                constants=constants,
                by_row={"eigenvalue": values[first : first + len(block)].cpu().numpy()},
                first=first,
            )
            first += len(block)


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
    from compute.covariances import ModuleCovariances

    rows = step.scan(covariances_table(fit), module=module).collect()
    sides = (
        _matrix(diagonal_blocks(rows.filter(side=side), index="row", values="covariance"))
        for side in ("activation", "gradient")
    )
    return ModuleCovariances(*sides, rows["tokens"][0])


def stored_eigenbasis(step: Reading, fit: str, module: str):
    """One module's eigenbasis as the engine takes it."""
    import torch

    from compute.eigenbasis import ModuleEigenbasis

    rows = step.scan(eigenbasis_table(fit), module=module).sort("direction").collect()
    parts = []
    for side in ("activation", "gradient"):
        of_side = rows.filter(side=side)
        blocks = diagonal_blocks(of_side, index="direction", values="eigenvector")
        parts.append(_matrix([block.T for block in blocks]))
        parts.append(torch.from_numpy(of_side["eigenvalue"].to_numpy(writable=True)))
    return ModuleEigenbasis(*parts)


def _matrix(blocks: list[np.ndarray]):
    """The engine's matrix of these diagonal blocks."""
    import torch

    from compute.block_diagonal import of_blocks

    return of_blocks([torch.from_numpy(block) for block in blocks])


def stored_eigenvalues(step: Reading, fit: str, module: str):
    """One module's Λ as the engine takes it."""
    import torch

    rows = step.scan(eigenvalues_table(fit), module=module).collect()
    return torch.from_numpy(stacked(rows, index="direction", values="eigenvalues"))


def placed_eigenbasis(step: Reading, fit: str, model, modules) -> dict:
    """The eigenbasis of every tracked module by name, where the module computes and in the dtype of its sums."""
    from compute.passes import placement

    return {module.name: stored_eigenbasis(step, fit, module.name).to(*placement(model, module)) for module in modules}


def document_tokens(step: Reading, fit: str) -> dict[str, float]:
    """The mean number of a sampled document's tokens that reach each module."""
    documents = step.scan(sample_table(fit)).select(pl.len()).collect().item()
    rows = step.scan(covariances_table(fit)).group_by("module").agg(pl.col("tokens").first()).collect()
    return {module: tokens / max(1, documents) for module, tokens in rows.iter_rows()}


class StoredFactors(Mapping):
    """Factors by module name, read when they are asked for; those of one module at a time, or all once read."""

    def __init__(self, names: Sequence[str], read: Callable[[str], Any], *, keeps_all: bool) -> None:
        self.names, self.read, self.keeps_all = names, read, keeps_all
        self._kept: dict[str, Any] = {}

    def __getitem__(self, name: str):
        if name not in self._kept:
            if not self.keeps_all:
                self._kept.clear()  # before the next is read
            self._kept[name] = self.read(name)
        return self._kept[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self.names)

    def __len__(self) -> int:
        return len(self.names)


def stored_curvature(step: Reading, study: Study, model, modules, *, keeps_all: bool = True):
    """The fit as the engine takes it, damped as the study says: with the factors of all modules kept in memory, or
    those of the module alone that was asked for last."""
    from compute.curvature import Curvature
    from compute.passes import placement

    fit, options = study.spec.curvature.name, study.spec.options
    places = {module.name: placement(model, module) for module in modules}

    def factors(read: Callable) -> StoredFactors:
        names = list(places)
        return StoredFactors(names, lambda name: read(step, fit, name).to(*places[name]), keeps_all=keeps_all)

    eigenbasis, eigenvalues = factors(stored_eigenbasis), factors(stored_eigenvalues)
    tokens = document_tokens(step, fit) if "kfac" in options.methods else None
    return Curvature(eigenbasis, eigenvalues, options.damping, tokens)
