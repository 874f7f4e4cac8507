"""How much memory of the CPU a process may still take: what the machine has free, and what its control groups allow."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import psutil

UNLIMITED = 2**60  # what version 1 says where there is no limit
FILES = {  # of a control group, by version: limit, what is taken, and what of this is files that can be let go
    2: ("memory.max", "memory.current", "inactive_file"),
    1: ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"),
}


def available_memory(system: Path = Path("/")) -> int:
    """Bytes, by the narrowest of all limits. `system` is where /proc and /sys are."""
    return min([psutil.virtual_memory().available, *_rooms(system)])


def _rooms(system: Path) -> Iterator[int]:
    """What each control group of the process leaves, from its own up to the root."""
    try:
        lines = (system / "proc/self/cgroup").read_text().splitlines()
    except OSError:  # not on Linux
        return
    for line in lines:
        number, controllers, path = line.split(":", 2)
        if number == "0" or "memory" in controllers.split(","):
            mount = system / "sys/fs/cgroup" / ("" if number == "0" else "memory")
            group = mount / path.lstrip("/")
            for directory in (group, *group.parents):
                room = _room(directory, FILES[2 if number == "0" else 1])
                if room is not None:
                    yield room
                if directory == mount:
                    break


def _room(directory: Path, names: tuple[str, str, str]) -> int | None:
    """None where the group has no limit, or is not shown to the process."""
    limit_file, taken_file, files = names
    try:
        limit = (directory / limit_file).read_text().strip()
        taken = int((directory / taken_file).read_text())
        counts = dict(line.split() for line in (directory / "memory.stat").read_text().splitlines())
    except (OSError, ValueError):
        return None
    if limit == "max" or int(limit) >= UNLIMITED:
        return None
    return max(0, int(limit) - taken + int(counts.get(files, 0)))
