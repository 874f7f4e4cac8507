"""`headwater delete`: what goes, what stays because of whom, what is refused, and a removal that is killed."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import dagster as dg
import pyarrow as pa
import pytest
from typer.testing import CliRunner

from assets.lake.lake import Lake
from assets.lake.maintenance import table_paths
from assets.lake.place import Place
from assets.lake.tables import Column, Table
from orchestration.cli import app
from orchestration.home import OVERRIDES, Home
from tests.orchestration.test_studies import write

TABLES = {
    "corpus": ("shards", "records", "documents"),
    "model": ("checkpoint",),
    "curvature": ("sample", "covariances"),
    "queries": ("queries",),
    "study": ("influence", "rankings"),
}
CORPUS = "corpus/demo"
KEPT_RUNS = "MLflow's runs and models and Dagster's run history stay."
KILLED = """
import os, signal, sys
from assets.lake.place import Place
from orchestration.cli import main

done, delete_table, after = [], Place.delete_table, int(sys.argv.pop(1))

def deadly(self, path):
    if len(done) == after:
        files = self.files()
        log = sorted(info.path for info in self.listed(f"{path}/_delta_log"))
        files.delete_file(log[-1])
        os.kill(os.getpid(), signal.SIGKILL)
    done.append(path)
    delete_table(self, path)

Place.delete_table = deadly
main()
"""


@dataclass
class Installation:
    """A lake with tables of the studies `a` and `b`, which share their corpus, model and queries."""

    home: Home
    lake: Lake

    def delete(self, *arguments: str, fails: bool = False, answer: str | None = None) -> tuple[str, str]:
        result = CliRunner().invoke(app, ["delete", *arguments], input=answer)
        assert result.exit_code == int(fails), result.stderr
        return result.stdout, result.stderr

    def parts(self) -> set[str]:
        return {path.rsplit("/", 1)[0] for path in table_paths(self.lake)}

    def fill(self, part: str, rows: int = 3) -> None:
        for name in TABLES[part.split("/")[0]]:
            columns = (Column("row", pa.int64(), "number"), Column("fingerprint", pa.string(), "state"))
            table = Table((*part.split("/"), name), "one row per number", columns)
            data = pa.table({"row": range(rows), "fingerprint": ["f" * 16] * rows}, schema=table.schema)
            self.lake.overwrite(table, data, commit={})

    def remember(self, instance: dg.DagsterInstance, part: str) -> None:
        """Dagster's events and partitions, as runs leave them."""
        for name in (*TABLES[part.split("/")[0]], "source"):
            key = dg.AssetKey([*part.split("/"), name])
            instance.report_runless_asset_event(dg.AssetMaterialization(key, partition="00000"))
        if part.startswith("corpus/"):
            instance.add_dynamic_partitions(part, ["00000", "00001"])


@pytest.fixture
def installed(tmp_path, monkeypatch) -> Installation:
    for name in ("HEADWATER_HOME", "DAGSTER_HOME", *OVERRIDES):
        monkeypatch.setenv(name, "")
        monkeypatch.delenv(name)
    monkeypatch.setenv("HEADWATER_HOME", str(tmp_path / "home"))
    home = Home.from_environment().prepare()
    found = Installation(home, Lake(uri=home.lake))
    for name, change in (("a", {"{name: fit}": "{name: fit-a}"}), ("b", {"{name: fit}": "{name: fit-b}"})):
        (home.studies / f"{name}.yaml").symlink_to(write(tmp_path, name, **change))
    for part in (CORPUS, "model/small", "curvature/fit-a", "curvature/fit-b", "queries/asked", "study/a", "study/b"):
        found.fill(part)
    return found


def test_a_study_goes_with_what_it_alone_refers_to(installed):
    stdout, stderr = installed.delete("a", "--yes")
    for line in ("study/a/influence", "study/a/rankings", "curvature/fit-a/sample", "curvature/fit-a/covariances"):
        assert f"  {line} " in stdout
    assert re.search(r"corpus/demo +study b refers to it", stdout) and "curvature/fit-b" not in stdout
    assert "a.yaml itself stays" in stdout and KEPT_RUNS in stdout
    assert stderr.splitlines() == ["removed study/a", "removed curvature/fit-a"]
    assert installed.parts() == {CORPUS, "model/small", "curvature/fit-b", "queries/asked", "study/b"}
    assert [path.name for path in installed.home.studies.iterdir()] == ["b.yaml"]
    assert (installed.home.studies.parents[1] / "a.yaml").exists()
    installed.delete("b", "--yes")
    assert installed.parts() == set() and not list(Path(installed.home.lake).glob("*/"))


def test_without_a_study_only_what_none_refers_to_goes(installed):
    stdout, _ = installed.delete("--yes")
    assert stdout == "Nothing to remove: a registered study refers to everything that there is.\n"
    for part in ("study/old", "curvature/old", "corpus/demo-old", "model/small-old"):
        installed.fill(part)
    before = installed.parts()
    stdout, _ = installed.delete("--yes")
    assert "study/old/influence" in stdout and re.search(r"corpus/demo +studies a, b refer to it", stdout)
    assert before - installed.parts() == {"study/old", "curvature/old", "corpus/demo-old", "model/small-old"}
    assert len(list(installed.home.studies.iterdir())) == 2


def test_what_is_shown_has_rows_sizes_and_versions(installed):
    installed.fill("study/a", rows=1234)
    stdout, _ = installed.delete("a", "--yes")
    line = next(line for line in stdout.splitlines() if "study/a/influence" in line)
    assert line.split()[1] == "1,234" and line.split()[-1] == "3"
    assert max(map(len, stdout.splitlines()[:8])) <= 100


def test_without_a_terminal_nothing_goes_unless_told_so(installed):
    before = installed.parts()
    stdout, stderr = installed.delete("a", fails=True)
    assert "study/a/influence" in stdout and "there is no terminal to ask on; give --yes" in stderr
    assert installed.parts() == before and (installed.home.studies / "a.yaml").exists()


@pytest.mark.parametrize(("answer", "goes"), [("yes\n", True), ("\n", False)])
def test_on_a_terminal_it_asks(installed, answer, goes):
    """A pseudo-terminal, as a person has one."""
    import pty

    main, end = pty.openpty()
    os.write(main, answer.encode())
    command = [sys.executable, "-m", "orchestration.cli", "delete", "a"]
    result = subprocess.run(command, stdin=end, capture_output=True, text=True, timeout=240)
    assert result.returncode == (0 if goes else 1)
    assert "It cannot be undone. [y/N]" in result.stderr and ("nothing was removed" in result.stderr) == (not goes)
    assert ("study/a" in installed.parts()) == (not goes)


def test_a_study_file_of_ones_own_in_the_directory_is_named_before_it_goes(installed):
    link = installed.home.studies / "a.yaml"
    text, base = link.read_text(), link.resolve().parent
    link.unlink()
    link.write_text(re.sub(r"path: ([^,}\n]+)", rf"path: {base}/\1", text))
    stdout, _ = installed.delete("a", "--yes")
    assert f"{link} (your study file: keep a copy if you still need it)" in stdout
    assert not link.exists()


def test_dagster_shows_what_is_gone_as_never_materialized(installed):
    with installed.home.instance() as instance:
        for part in (CORPUS, "study/a", "study/b"):
            installed.remember(instance, part)
    installed.delete("a", "--yes")
    with installed.home.instance() as instance:
        assert {key.path[1] for key in instance.get_asset_keys(prefix=["study"])} == {"b"}
        assert list(instance.get_dynamic_partitions(CORPUS)) == ["00000", "00001"]
    installed.delete("b", "--yes")
    with installed.home.instance() as instance:
        assert instance.get_asset_keys() == [] and list(instance.get_dynamic_partitions(CORPUS)) == []


def test_what_only_dagster_remembers_goes_too(installed):
    with installed.home.instance() as instance:
        installed.remember(instance, "corpus/gone")
    stdout, _ = installed.delete("--yes")
    assert "what Dagster remembers of corpus/gone, which has no tables any more" in stdout
    with installed.home.instance() as instance:
        assert instance.get_asset_keys() == [] and list(instance.get_dynamic_partitions("corpus/gone")) == []


def test_unpacked_checkpoints_go_with_their_model(installed):
    checkpoints = installed.home.cache / "checkpoints"
    mark = "0123456789abcdef"
    for name in (f"small-{mark}", f"old-{mark}", f"old-{mark}.77", f"small-old-{mark}", "notes"):
        (checkpoints / name).mkdir(parents=True)
        (checkpoints / name / "model.safetensors").write_bytes(b"x" * 1500)
    stdout, _ = installed.delete("--yes")
    assert f"old-{mark} (unpacked checkpoint, 1.5 kB)" in stdout
    assert sorted(path.name for path in checkpoints.iterdir()) == ["notes", f"small-{mark}"]
    installed.delete("a", "--yes")
    assert (checkpoints / f"small-{mark}").exists()
    installed.delete("b", "--yes")
    assert [path.name for path in checkpoints.iterdir()] == ["notes"]


@pytest.mark.parametrize("arguments", [("a",), ()])
def test_nothing_goes_while_a_study_file_is_broken(installed, arguments):
    installed.fill("corpus/other")
    (installed.home.studies / "c.yaml").write_text("study: [")
    before = installed.parts()
    _, stderr = installed.delete(*arguments, "--yes", fails=True)
    assert "nothing is removed while a study file cannot be read" in stderr and "c.yaml:1: is not valid YAML" in stderr
    assert installed.parts() == before


def make_run(instance: dg.DagsterInstance, status: dg.DagsterRunStatus, *keys: str) -> str:
    """A run in this state: of these assets, or of an operation."""

    @dg.op
    def work() -> None: ...

    @dg.job
    def housekeeping() -> None:
        work()

    if not keys:
        return instance.create_run_for_job(housekeeping, status=status).run_id
    assets = [dg.AssetSpec(key.split("/")) for key in keys]

    @dg.multi_asset(specs=assets)
    def some(): ...

    definitions = dg.Definitions([some], jobs=[dg.define_asset_job("study_a", selection=[each.key for each in assets])])
    job = definitions.resolve_job_def("study_a")
    selection = frozenset(each.key for each in assets)
    return instance.create_run_for_job(job, status=status, asset_selection=selection).run_id


@pytest.mark.parametrize("status", ["NOT_STARTED", "STARTED", "CANCELING"])
def test_nothing_goes_while_a_run_is_at_work_on_it(installed, status):
    with installed.home.instance() as instance:
        run = make_run(instance, dg.DagsterRunStatus[status], "study/b/influence", "curvature/fit-b/sample")
        before = installed.parts()
        _, stderr = installed.delete("b", "--yes", fails=True)
        assert f"Dagster run {run[:8]} (study_a) is at work on study/b; wait until it has ended" in stderr
        assert installed.parts() == before
        installed.delete("a", "--yes")  # which it has nothing to do with
        instance.report_run_canceled(instance.get_run_by_id(run))
    installed.delete("b", "--yes")
    assert installed.parts() == set()


def test_nothing_goes_while_a_backfill_has_runs_to_start(installed):
    from dagster._core.execution.backfill import BulkActionStatus, PartitionBackfill  # Dagster's own is made by GraphQL

    with installed.home.instance() as instance:
        for status in (BulkActionStatus.COMPLETED_SUCCESS, BulkActionStatus.REQUESTED):
            asked = [dg.AssetKey(["study", "b", "influence"])]
            backfill = PartitionBackfill(status.value, status, False, {}, 1.0, asset_selection=asked)
            instance.add_backfill(backfill)
    _, stderr = installed.delete("b", "--yes", fails=True)
    assert "backfill REQUESTED is at work on study/b; wait until it has ended" in stderr
    installed.delete("a", "--yes")


def test_a_run_of_operations_may_be_at_work_on_anything(installed):
    with installed.home.instance() as instance:
        make_run(instance, dg.DagsterRunStatus.STARTED)
    _, stderr = installed.delete("a", "--yes", fails=True)
    assert "(housekeeping) may be at work on what would be removed" in stderr
    installed.delete("--yes")  # nothing to remove


def test_an_unknown_study_names_near_matches_and_one_that_is_only_in_the_lake_can_go(installed):
    _, stderr = installed.delete("c", "--yes", fails=True)
    assert "study c: is neither registered nor in the lake; known studies: a, b" in stderr
    installed.fill("study/c")
    stdout, _ = installed.delete("c", "--yes")
    assert "study/c/influence" in stdout and "study/c" not in installed.parts() and "corpus/demo" in installed.parts()


@pytest.mark.parametrize("after", [0, 5])
def test_a_removal_that_was_killed_is_completed_by_the_same_command(installed, after):
    with installed.home.instance() as instance:
        for part in (CORPUS, "study/b"):
            installed.remember(instance, part)
    installed.delete("a", "--yes")
    command = [sys.executable, "-c", KILLED, str(after), "delete", "b", "--yes"]
    killed = subprocess.run(command, cwd=Path(__file__).parents[2], capture_output=True, text=True, timeout=240)
    assert killed.returncode == -signal.SIGKILL and (installed.home.studies / "b.yaml").is_symlink()
    for path in table_paths(installed.lake):  # what is left is whole, or an earlier version of it
        assert Path(installed.home.lake, path, "_delta_log", f"{0:020}.json").exists()
    installed.delete("b", "--yes")
    assert installed.parts() == set() and not list(Path(installed.home.lake).glob("*/"))
    assert not list(installed.home.studies.iterdir())
    with installed.home.instance() as instance:
        assert instance.get_asset_keys() == [] and list(instance.get_dynamic_partitions(CORPUS)) == []


def test_files_of_no_table_are_counted_and_go(installed):
    stray = Path(installed.home.lake, "study/a/influence/part-0.parquet")
    for path in stray.parent.rglob("*.json"):
        path.unlink()
    stray.parent.joinpath("_delta_log").rmdir()
    stdout, _ = installed.delete("a", "--yes")
    assert "1 files of no table" in stdout.replace("2 files", "1 files") and not stray.parent.exists()


def test_an_empty_studies_directory_is_taken_for_the_wrong_one(installed, monkeypatch, tmp_path):
    monkeypatch.setenv("HEADWATER_STUDIES", str(tmp_path / "elsewhere"))
    before = installed.parts()
    _, stderr = installed.delete("--yes", fails=True)
    assert f"{tmp_path}/elsewhere: holds no study files, so that everything in the lake would go" in stderr
    assert installed.parts() == before


def test_a_file_that_cannot_be_removed_is_a_sentence_and_the_study_stays_registered(installed, monkeypatch):
    def refused(*_) -> None:
        raise PermissionError("study/a: Permission denied")

    with monkeypatch.context() as broken:
        broken.setattr(Place, "delete_table", refused)
        _, stderr = installed.delete("a", "--yes", fails=True)
    assert "the removal stopped halfway (study/a: Permission denied); mend that and give the command again" in stderr
    assert (installed.home.studies / "a.yaml").exists()
    installed.delete("a", "--yes")


def test_a_place_where_nothing_was_run_is_said(tmp_path, monkeypatch):
    monkeypatch.setenv("HEADWATER_HOME", str(tmp_path / "new"))
    result = CliRunner().invoke(app, ["delete", "a", "--yes"])
    assert result.exit_code == 1 and f"{tmp_path}/new: nothing has been run here" in result.stderr
    assert not (tmp_path / "new").exists()
