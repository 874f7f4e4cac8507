"""What Dagster is told of a step: its assets with metadata and data versions, and the results of its checks."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import dagster as dg

from assets.lake.tables import Table
from assets.step.checks import Check, CheckFailedError, Verdict, as_evaluation
from assets.step.evaluations import LastEvaluation, last_evaluation
from assets.tracking.progress import note


class Report:
    """Gathers while the step works; told at its end, good or bad."""

    def __init__(self, context: dg.AssetExecutionContext) -> None:
        self.context = context
        self.done: list[str] = []
        self._stamps: dict[str, dict[str, str]] = {}
        self._metadata: dict[tuple[str, str], dict] = {}
        self._expected: dict[tuple[str, str], str] = {}
        self._verdicts: dict[dg.AssetCheckKey, Verdict] = {}

    def expect(self, table: Table, shard: str | None, fingerprint: str | None) -> None:
        """The fingerprint that rows should have: checks that fail are of rows with it."""
        self._expected[table.path, shard or ""] = fingerprint or ""

    def add(self, table: Table, shard: str | None, fingerprint: str, metadata: dict) -> None:
        """What is there now of a table, or of one shard of it."""
        if table.asset_key in self.context.selected_asset_keys:  # or it belongs to another asset's story (rejected)
            self._stamps.setdefault(table.path, {})[shard or ""] = fingerprint
            self._metadata[table.path, shard or ""] = metadata | {"fingerprint": fingerprint}

    def check(
        self, check: Check, problem: str | None, *, shard: str | None = None, metadata: dict | None = None
    ) -> None:
        """Notes that a check holds, or the `problem`. Raises CheckFailedError where a failed check blocks."""
        self.look(check, {shard or "": problem}, metadata=metadata)
        if problem and check.blocking:
            raise CheckFailedError(problem)

    def look(self, check: Check, problems: Mapping[str, str | None], *, metadata: dict | None = None) -> str | None:
        """Notes of several shards whether a check holds; the first problem."""
        verdict = self._verdicts.setdefault(check.key, Verdict(check))
        verdict.metadata |= metadata or {}
        for shard, problem in problems.items():
            verdict.add(shard, problem, self._expected.get((check.table.path, shard)))
            if problem and not check.blocking:  # what blocks becomes the step's failure, which is told as such
                note(f"check {check.name} failed: {problem}")
        return next(filter(None, problems.values()), None)

    def unmended(self, check: Check) -> dict[str, str]:
        """What earlier runs found wrong with shards that this step has not looked at so far."""
        verdict = self._verdicts.get(check.key) or Verdict(check)
        return self._unmended(verdict, self._last(check))

    def of_success(self, checks: Sequence[Check]) -> Iterator[dg.MaterializeResult]:
        """What a finished step yields: every selected asset with its metadata, data version and checks."""
        for (path, shard), metadata in self._metadata.items():
            key = dg.AssetKey(path.split("/"))
            self.context.add_asset_metadata(metadata, asset_key=key, partition_key=shard or None)
        judged = [self._judged(verdict) for verdict in self._all_verdicts(checks)]
        for key in sorted(self.context.selected_asset_keys):
            yield dg.MaterializeResult(
                asset_key=key,
                data_version=self._data_version("/".join(key.path)),
                check_results=[result for result in judged if result.asset_key == key],
            )

    def of_failure(self, checks: Sequence[Check]) -> Iterator[dg.AssetMaterialization | dg.AssetCheckResult]:
        """What is yielded before a failure is raised: the shards that were done, and the checks that were made."""
        for (path, shard), metadata in self._metadata.items():
            if shard in self.done:
                tags = {"dagster/data_version": self._stamps[path][shard]} if self._stamps[path][shard] else None
                yield dg.AssetMaterialization(path.split("/"), partition=shard, metadata=metadata, tags=tags)
        yield from (self._judged(verdict) for verdict in self._all_verdicts(checks) if verdict.looks)

    def _all_verdicts(self, checks: Sequence[Check]) -> list[Verdict]:
        selected = self.context.selected_asset_check_keys
        return [self._verdicts.get(check.key) or Verdict(check) for check in checks if check.key in selected]

    def _judged(self, verdict: Verdict) -> dg.AssetCheckResult:
        """The result for the whole table. Where Dagster would go on to show that of another run, planned after this one
        and over already, it is told outside of the run too."""
        last = self._last(verdict.check)
        result = verdict.result(last, self._unmended(verdict, last))
        if last.is_overtaken:
            self.context.instance.report_runless_asset_event(as_evaluation(verdict.check, result))
        return result

    def _last(self, check: Check) -> LastEvaluation:
        return last_evaluation(self.context.instance, check.key, self.context.run.run_id)

    def _unmended(self, verdict: Verdict, last: LastEvaluation) -> dict[str, str]:
        partitions = self.context.assets_def.partitions_def
        shards = None
        if partitions is not None and any(last.problems):
            shards = set(partitions.get_partition_keys(dynamic_partitions_store=self.context.instance))
        return verdict.unmended(last, shards, self._stamps.get(verdict.check.table.path, {}))

    def _data_version(self, path: str) -> dg.DataVersion | None:
        """The fingerprint of what was written. Dagster takes one for all shards of a run, so several get its own."""
        stamps = self._stamps.get(path, {})
        return dg.DataVersion(next(iter(stamps.values()))) if len(stamps) == 1 and any(stamps.values()) else None
