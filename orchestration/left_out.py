"""What the code location leaves out, shown among the assets with what is wrong: the rest works."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator

import dagster as dg

from orchestration.names import shown
from orchestration.studies import LoadedStudy


def left_out_studies(loaded: Iterable[LoadedStudy]) -> Iterator[dg.AssetSpec]:
    """One asset per study file with a mistake."""
    taken: set[str] = set()
    for each in loaded:
        if each.error:
            mistakes = "\n".join(f"- {line}" for line in each.error.splitlines())
            yield dg.AssetSpec(
                ["study", _free_name(each.path.stem, taken)],
                group_name="studies_left_out",
                description=f"**This study is left out.**\n\n{mistakes}\n\nMend the file, then reload the definitions.",
                kinds={"yaml"},
                metadata={"file": dg.MetadataValue.path(shown(str(each.path)))},
            )


def left_out_setting(mistake: str) -> dg.AssetSpec:
    """A setting under which the lake's maintenance cannot work."""
    return dg.AssetSpec(
        ["lake_maintenance"],
        group_name="settings_left_out",
        description=f"**The lake's maintenance is left out.**\n\n{mistake}\n\nMend the setting, then start anew.",
    )


def _free_name(stem: str, taken: set[str]) -> str:
    """A key that no other file has: `bad.yaml` and `bad.yml`, or `a b.yaml` and `a_b.yaml`, lie side by side."""
    name = base = re.sub(r"[^A-Za-z0-9_-]", "_", stem)
    number = 1
    while name in taken:
        number += 1
        name = f"{base}_{number}"
    taken.add(name)
    return name
