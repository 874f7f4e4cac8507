"""The Dagster code location: the assets and jobs of every study in the studies directory.

A study file that cannot be read is reported and left out; the others load as if it were not there.
"""

from __future__ import annotations

import dagster as dg

from orchestration.graph import graph_definitions
from orchestration.home import Home
from orchestration.resources import resources_of
from orchestration.studies import load_studies


@dg.definitions
def headwater() -> dg.Definitions:
    """Read when the location loads: "Reload definitions" in the UI picks up a new or changed study file."""
    home = Home.from_environment()
    studies = []
    for loaded in load_studies(home.studies):
        if loaded.study is None:
            dg.get_dagster_logger("headwater").error(f"This study is left out: {loaded.error}")
        else:
            studies.append(loaded.study)
    return graph_definitions(studies, resources_of(home), executor=_executor())


def _executor() -> dg.ExecutorDefinition:
    # One step at a time: each uses every core. A forkserver that has imported the heavy libraries starts a step in
    # under a second.
    preload = ["torch", "transformers", "polars", "deltalake", "orchestration.definitions"]
    return dg.multiprocess_executor.configured(
        {"max_concurrent": 1, "start_method": {"forkserver": {"preload_modules": preload}}}
    )
