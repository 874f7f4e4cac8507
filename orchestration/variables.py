"""The environment variables that Headwater reads: what each says, and what holds where it is left out."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Variable:
    """One variable; `default` is what holds where it is not set, or is empty."""

    name: str
    meaning: str
    default: str


VARIABLES = (
    Variable("HEADWATER_HOME", "Directory in which everything is kept.", ".headwater"),
    Variable("HEADWATER_LAKE", "Directory or URI of the Delta tables.", "<home>/lake"),
    Variable("HEADWATER_TRACKING_URI", "MLflow's store or server.", "SQLite in <home>/mlflow"),
    Variable("HEADWATER_STUDIES", "Directory of the study files that the UI loads.", "<home>/studies"),
    Variable("HEADWATER_CACHE", "Directory of unpacked checkpoints and of the explorer's index.", "<home>/cache"),
    Variable(
        "HEADWATER_RETENTION_HOURS", "For how many hours earlier versions of a table stay readable at least.", "720"
    ),
    Variable("HEADWATER_MAINTENANCE", "When the lake is maintained, as a cron schedule; switches it on.", "off"),
    Variable("HEADWATER_TRACKING_UI", "Address at which people see MLflow's UI, for links.", "set by headwater ui"),
    Variable("HEADWATER_DAGSTER_UI", "Address at which people see Dagster's UI, for links.", "set by headwater ui"),
)
