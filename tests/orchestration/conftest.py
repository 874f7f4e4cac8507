"""One real run of the tiny study, shared by the tests that only read what it left behind."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path

import polars as pl
import pytest

from assets.lake.lake import Lake
from orchestration.results import Results
from tests.orchestration.tiny_study import headwater, write_study


@dataclass(frozen=True)
class FinishedRun:
    home: Path
    study: Path
    output: str

    def table(self, path: str) -> pl.DataFrame:
        return pl.scan_delta(str(self.home / "lake" / path)).collect()


@pytest.fixture(scope="session")
def finished(tmp_path_factory) -> FinishedRun:
    directory = tmp_path_factory.mktemp("tiny")
    study, home = write_study(directory), directory / "home"
    result = headwater(home, "run", study)
    assert result.returncode == 0, result.stderr
    return FinishedRun(home, study, result.stdout)


@pytest.fixture
def copied(finished, tmp_path, monkeypatch):
    """The finished study again, for tests that change it."""
    from tests.orchestration.copied_study import copy_of

    monkeypatch.setenv("DAGSTER_HOME", str(tmp_path / "copy/home/dagster"))
    study = copy_of(finished.study, tmp_path)
    with study.instance:
        yield study


@pytest.fixture
def results(finished) -> Results:
    return Results(Lake(uri=str(finished.home / "lake")))


@pytest.fixture
def browser(results, tmp_path):
    """The explorer on the finished study."""
    from tests.orchestration.explored import explore

    return explore(results.lake, tmp_path / "cache")


@pytest.fixture
def changed(finished, tmp_path) -> Lake:
    """A copy of the lake, to be written to."""
    shutil.copytree(finished.home / "lake", tmp_path / "lake")
    return Lake(uri=str(tmp_path / "lake"))
