"""The queries' gradients come back as they were stored, in memory or in a mapped file, whatever the order of rows."""

from __future__ import annotations

import os
import random
import tempfile
from pathlib import Path

import pyarrow as pa
import pytest
import torch

import assets.study.stored_gradients
from assets.lake.lake import Lake
from assets.lake.matrices import vectors
from assets.step.reading import Reading
from assets.study.query_gradients import query_gradients_table
from assets.study.stored_gradients import stored_gradients
from compute.errors import BadInput
from compute.low_rank import LowRankGradient

MODULES = {"up": (24, 9), "down": (8, 25)}
TABLE = query_gradients_table("any")


def drawn(queries: int = 5, methods=("dot", "ekfac")) -> dict:
    """Gradients of ranks between 1 and 4, other ones for each query, method and module."""
    draw, generator = random.Random(0), torch.Generator().manual_seed(0)

    def factors(sizes) -> LowRankGradient:
        rank = draw.randint(1, 4)
        return LowRankGradient(*(torch.randn(size, rank, generator=generator) for size in sizes))

    return {
        (method, f"q{number}"): {module: factors(sizes) for module, sizes in MODULES.items()}
        for method in methods
        for number in range(queries)
    }


def store(lake: Lake, gradients: dict) -> None:
    """In an order of rows that no writer would choose."""
    rows = [
        (method, query_id, module, component, factor.left_OR[:, component], factor.right_IR[:, component])
        for (method, query_id), by_module in gradients.items()
        for module, factor in by_module.items()
        for component in range(factor.rank)
    ]
    random.Random(1).shuffle(rows)
    batches = []
    for *key, component, left, right in rows:
        columns = [pa.array([name]) for name in key]
        columns += [pa.array([component], pa.int32()), vectors(left[None].numpy()), vectors(right[None].numpy())]
        batches.append(pa.RecordBatch.from_arrays([*columns, pa.array(["stamp"])], schema=TABLE.schema))
    lake.ensure(TABLE)
    lake.overwrite(TABLE, pa.Table.from_batches(batches), commit={})


@pytest.fixture
def stored(tmp_path) -> tuple[Lake, dict]:
    lake, gradients = Lake(uri=str(tmp_path / "lake")), drawn()
    store(lake, gradients)
    return lake, gradients


def assert_equal(found: dict, expected: dict) -> None:
    assert list(found) == sorted(expected)
    for key, by_module in expected.items():
        assert found[key].keys() == by_module.keys()
        for module, factor in by_module.items():
            assert torch.equal(found[key][module].left_OR, factor.left_OR)
            assert torch.equal(found[key][module].right_IR, factor.right_IR)


@pytest.mark.parametrize("most_bytes", [None, 10**9, 100])
def test_come_back_as_they_were(stored, most_bytes):
    lake, gradients = stored
    assert_equal(stored_gradients(Reading(lake), "any", most_bytes), gradients)


def mapped_files() -> list[str]:
    return [line for line in Path("/proc/self/maps").read_text().splitlines() if "headwater-" in line]


def test_more_than_they_may_take_stands_in_a_file_without_a_name(stored, tmp_path, monkeypatch):
    lake, gradients = stored
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    elements = sum(f.left_OR.numel() + f.right_IR.numel() for each in gradients.values() for f in each.values())
    found = stored_gradients(Reading(lake), "any", 4 * elements)
    assert not mapped_files()
    found = stored_gradients(Reading(lake), "any", 4 * elements - 1)
    assert len(mapped_files()) == 1 and str(tmp_path) in mapped_files()[0]
    assert not list(tmp_path.glob("headwater-*"))
    assert_equal(found, gradients)
    del found
    assert not mapped_files()


def test_a_full_disk_is_named_and_leaves_nothing(stored, tmp_path, monkeypatch):
    def full(*_) -> None:
        raise OSError(28, os.strerror(28))

    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.setattr(assets.study.stored_gradients.os, "posix_fallocate", full)
    with pytest.raises(BadInput, match=r"gradients of 0 MiB do not fit \(No space left on device\); raise"):
        stored_gradients(Reading(stored[0]), "any", 100)
    assert not list(tmp_path.glob("headwater-*"))
