"""How an asset is declared: what all of them have in common in the Dagster UI."""

from __future__ import annotations

import sys
from collections.abc import Iterable

import dagster as dg

from assets.lake.tables import Table
from assets.step.checks import Check, check_specs


class AfterACrash(dg.RetryPolicy):
    """Retries what crashed, and lets go what was stopped: Dagster would begin a step anew after Ctrl-C."""

    def calculate_delay(self, attempt_num: int) -> int | float:
        """Seconds until the next attempt. Asked for while the error is being handled, so that it can be told."""
        if isinstance(stopped := sys.exc_info()[1], (KeyboardInterrupt, dg.DagsterExecutionInterruptedError)):
            raise stopped
        return super().calculate_delay(attempt_num)


AFTER_A_CRASH = AfterACrash(max_retries=2, delay=5, backoff=dg.Backoff.EXPONENTIAL, jitter=dg.Jitter.PLUS_MINUS)
"""For every step. A user's mistake and a failed check are not retried: they would fail again."""


def dagster_name(name: str) -> str:
    """A name as Dagster takes it for groups, operations and jobs, which may not hold a dash.

    Two names that differ in nothing else are one to Dagster, so such studies are refused where they are read.
    """
    return name.replace("-", "_")


def spec_arguments(
    table: Table, group: str, code_version: str, story: str, *, owners: Iterable[str] = (), kinds: Iterable[str] = ()
) -> dict:
    """Arguments of the AssetSpec of a table: key, grain and `story`, columns, owners, kinds."""
    return {
        "key": list(table.key),
        "group_name": dagster_name(group),
        "description": f"{table.grain[0].upper()}{table.grain[1:]}. {story}",
        "kinds": {"deltalake", *kinds},
        "owners": list(owners),
        "code_version": code_version,
        "metadata": {"dagster/column_schema": table.dagster_columns(), "dagster/table_name": table.path},
    }


def asset_arguments(
    table: Table,
    group: str,
    code_version: str,
    story: str,
    *,
    owners: Iterable[str] = (),
    kinds: Iterable[str] = (),
    checks: Iterable[Check] = (),
) -> dict:
    """Arguments of `@dg.asset` for the one table of a step."""
    return {
        **spec_arguments(table, group, code_version, story, owners=owners, kinds=kinds),
        "check_specs": check_specs(checks),
        "retry_policy": AFTER_A_CRASH,
    }
