"""`headwater doctor`: whether this installation can work, and what to do where it cannot."""

from __future__ import annotations

import importlib.metadata
import os
import shutil
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from assets.lake.damage import first_line
from assets.lake.lake import Lake
from assets.lake.maintenance import table_paths
from compute.errors import BadInput
from orchestration.home import Home

GOOD, NOTE, BAD = "good", "note", "bad"
PACKAGES = ("dagster", "torch", "transformers", "polars", "deltalake", "mlflow", "duckdb", "pyarrow")
LEAST_FREE_BYTES = 2 << 30
CLASHES = {"torchvision": "its operators clash with a CPU build of torch", "dagster-mlflow": "it starts second runs"}


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at: `state` is good, note (works, but should be known) or bad."""

    what: str
    state: str
    said: str


def examine(home: Home) -> Iterator[Finding]:
    """Looks at everything; what cannot be looked at is a finding too, and never an error."""
    for what, look in (
        ("Python", _python),
        ("packages", _packages),
        ("devices", _devices),
        ("home", lambda: _home(home)),
        ("lake", lambda: _lake(home)),
        ("tracking", lambda: _tracking(home)),
        ("studies", lambda: _studies(home)),
    ):
        yield _looked(what, look)


def _looked(what: str, look: Callable[[], tuple[str, str]]) -> Finding:
    try:
        return Finding(what, *look())
    except BadInput as error:
        return Finding(what, BAD, str(error))
    except Exception as error:
        return Finding(what, BAD, f"{type(error).__name__}: {first_line(error)}")


def _python() -> tuple[str, str]:
    version = ".".join(map(str, sys.version_info[:3]))
    return (GOOD if sys.version_info >= (3, 11) else BAD), f"{version} ({sys.executable})"


def _packages() -> tuple[str, str]:
    installed = {name: _version(name) for name in PACKAGES}
    if missing := [name for name, version in installed.items() if version is None]:
        return BAD, f"{', '.join(missing)} not installed; run make setup"
    clashing = [f"{name} is installed, and {why}; remove it" for name, why in CLASHES.items() if _version(name)]
    said = ", ".join(f"{name} {version}" for name, version in installed.items())
    return (NOTE, "; ".join([*clashing, said])) if clashing else (GOOD, said)


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def _devices() -> tuple[str, str]:
    import torch

    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    if not torch.cuda.is_available():
        return NOTE, f"no GPU that torch {torch.__version__} can use; work is done on {cores} CPU cores"
    named = [torch.cuda.get_device_properties(at) for at in range(torch.cuda.device_count())]
    return GOOD, ", ".join(f"{each.name} ({each.total_memory / 2**30:.0f} GiB)" for each in named)


def _home(home: Home) -> tuple[str, str]:
    place = _existing(home.root)
    if not os.access(place, os.W_OK):
        return BAD, f"{place} may not be written to; choose another place (HEADWATER_HOME)"
    free = shutil.disk_usage(place).free
    said = f"{home.root}, {free / 2**30:.1f} GiB free"
    return (GOOD, said) if free >= LEAST_FREE_BYTES else (NOTE, f"{said}; tables of scores may need more")


def _existing(path: Path) -> Path:
    """The directory itself, or the nearest one above it that is there."""
    return next(each for each in (path, *path.parents) if each.exists())


def _lake(home: Home) -> tuple[str, str]:
    lake = Lake(uri=home.lake)
    marked = lake.place.check_layout(mark=False)
    tables = table_paths(lake)
    if not marked and not tables:
        return NOTE, f"{lake.place.root} holds nothing yet; headwater run STUDY.yaml fills it"
    return GOOD, f"{lake.place.root}: {len(tables)} tables"


def _tracking(home: Home) -> tuple[str, str]:
    from mlflow import MlflowClient

    file = home.tracking.removeprefix("sqlite:///")
    if file != home.tracking and not Path(file).exists():
        return NOTE, f"{home.tracking} is made by the first run"
    # A server that does not answer is to be told now, and not after minutes of retries.
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "5")
    experiments = MlflowClient(tracking_uri=home.tracking).search_experiments(max_results=1_000)
    return GOOD, f"{home.tracking}: {len(experiments)} experiments"


def _studies(home: Home) -> tuple[str, str]:
    from orchestration.studies import load_studies

    loaded = load_studies(home.studies)
    if broken := [each.error for each in loaded if each.error]:
        return BAD, "; ".join(broken)
    return (GOOD if loaded else NOTE), f"{len(loaded)} in {home.studies}"
