"""Where things are kept: defaults, overrides, and a Dagster configuration that Dagster itself accepts."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import dagster as dg
import pytest
import yaml

from compute.errors import BadInput
from orchestration.home import OVERRIDES, Home


@pytest.fixture(autouse=True)
def clean(monkeypatch, tmp_path):
    own = ("HEADWATER_HOME", "DAGSTER_HOME", "HEADWATER_MAINTENANCE", "HEADWATER_RETENTION_HOURS")
    for name in (*own, *OVERRIDES):
        monkeypatch.setenv(name, "")  # so that what the code sets is undone as well
        monkeypatch.delenv(name)
    monkeypatch.chdir(tmp_path)


def test_by_default_all_is_in_one_directory(tmp_path):
    home = Home.from_environment().prepare()
    root = tmp_path / ".headwater"
    assert home.root == root and home.lake == str(root / "lake")
    assert home.tracking == f"sqlite:///{root}/mlflow/mlflow.db"
    assert {path.name for path in root.iterdir()} == {"dagster", "mlflow", "studies", "cache"}


def test_each_place_can_be_another(monkeypatch, tmp_path):
    monkeypatch.setenv("HEADWATER_HOME", "a home ä")
    monkeypatch.setenv("HEADWATER_LAKE", "s3://bucket/lake")
    monkeypatch.setenv("HEADWATER_TRACKING_URI", "http://host:5000")
    monkeypatch.setenv("HEADWATER_STUDIES", "mine")
    home = Home.from_environment().prepare()
    assert (home.lake, home.tracking, home.studies) == ("s3://bucket/lake", "http://host:5000", tmp_path / "mine")
    assert home.studies.is_dir() and home.dagster == tmp_path / "a home ä" / "dagster"
    monkeypatch.setenv("HEADWATER_LAKE", "elsewhere")
    assert Home.from_environment().lake == str(tmp_path / "elsewhere")


def test_children_find_the_same_place_from_any_directory(monkeypatch, tmp_path):
    monkeypatch.setenv("HEADWATER_HOME", "h")
    monkeypatch.setenv("HEADWATER_STUDIES", "mine")
    home = Home.from_environment().prepare()
    assert "HEADWATER_LAKE" not in home.environment()
    child = "from orchestration.home import Home; print(Home.from_environment())"
    root = Path(__file__).parents[2]
    environment = os.environ | home.environment() | {"PYTHONPATH": str(root)}
    found = subprocess.run([sys.executable, "-c", child], cwd="/", env=environment, capture_output=True, text=True)
    assert found.stdout.strip() == str(home)


def test_dagster_accepts_every_setting_and_keeps_a_users_changes():
    home = Home.from_environment().prepare()
    with home.instance() as instance:
        settings = yaml.safe_load((home.dagster / "dagster.yaml").read_text())
        for section, values in settings.items():
            assert {name: instance.get_settings(section)[name] for name in values} == values
        assert not instance.telemetry_enabled and not instance.nux_enabled
        assert instance.run_monitoring_enabled and instance.run_retries_enabled
        assert (
            instance.run_retries_max_retries == 1
            and not instance.get_settings("run_retries")["retry_on_asset_or_op_failure"]
        )
        assert instance.global_op_concurrency_default_limit == 1
        assert instance.root_directory == str(home.dagster) == os.environ["DAGSTER_HOME"]
    (home.dagster / "dagster.yaml").write_text("telemetry: {enabled: true}\n")
    assert "true" in (home.prepare().dagster / "dagster.yaml").read_text()


def test_an_unknown_setting_would_be_refused():
    """The check above can fail: Dagster refuses what it does not know."""
    home = Home.from_environment().prepare()
    (home.dagster / "dagster.yaml").write_text("run_monitoring: {enabledd: true}\n")
    with pytest.raises(dg.DagsterInvalidConfigError):
        home.instance()


def test_a_place_that_cannot_be_made_is_a_sentence(monkeypatch, tmp_path):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("HEADWATER_HOME", str(tmp_path / "file"))
    with pytest.raises(BadInput, match="HEADWATER_HOME"):
        Home.from_environment().prepare()


@pytest.mark.parametrize(
    ("variable", "value", "why"),
    [
        ("HEADWATER_MAINTENANCE", "weekly", "is no cron schedule; write one such as '0 4 * * 0'"),
        ("HEADWATER_MAINTENANCE", "0 25 * * *", "is no cron schedule"),
        ("HEADWATER_RETENTION_HOURS", "0", "is no number of hours from 1 to 876000; write a whole number such as 720"),
        ("HEADWATER_RETENTION_HOURS", "a week", "is no number of hours"),
        ("HEADWATER_RETENTION_HOURS", "²", "is no number of hours"),  # a digit, though not to int()
        ("HEADWATER_RETENTION_HOURS", "9" * 5000, "is no number of hours"),
        ("HEADWATER_STUDIES", "~nobody-of-that-name/studies", "leads nowhere"),
        ("HEADWATER_HOME", "~nobody-of-that-name", "leads nowhere"),
        ("HEADWATER_TRACKING_URI", "sqlite:///~nobody-of-that-name/mlflow.db", "leads nowhere"),
        ("HEADWATER_CACHE", "cache\udcff", "is no path in UTF-8"),
    ],
)
def test_a_setting_that_cannot_be_used_is_a_sentence(monkeypatch, variable, value, why):
    monkeypatch.setenv(variable, value)
    with pytest.raises(BadInput) as caught:
        Home.from_environment()
    sentence = str(caught.value)
    assert sentence.startswith(f"{variable}: ") and why in sentence and "\n" not in sentence


def test_settings_of_the_maintenance_are_taken_as_written(monkeypatch):
    monkeypatch.setenv("HEADWATER_MAINTENANCE", " 30 3 * * 6 ")
    monkeypatch.setenv("HEADWATER_RETENTION_HOURS", "48")
    home = Home.from_environment()
    assert (home.maintenance, home.retention_hours) == ("30 3 * * 6", 48)
