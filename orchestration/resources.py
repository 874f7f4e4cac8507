"""The resources that assets ask for, made from where this installation keeps its things."""

from __future__ import annotations

from assets.lake.lake import Lake
from assets.tracking.tracking import DEFAULT_DAGSTER_UI, Tracking
from orchestration.home import Home


def resources_of(home: Home) -> dict:
    """The lake and the tracking of `home`, under the names that assets use."""
    return {
        "lake": Lake(uri=home.lake, cache=str(home.cache), retention_hours=home.retention_hours),
        "tracking": Tracking(
            tracking_uri=home.tracking,
            ui=home.tracking_ui,
            dagster_ui=home.dagster_ui or DEFAULT_DAGSTER_UI,
            artifacts=home.artifacts.as_uri(),
        ),
    }
