"""Memory that is there, by control groups of both versions and by what the machine has free."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from compute.available_memory import available_memory

GIB = 2**30


@pytest.fixture(autouse=True)
def free(monkeypatch):
    """The machine has 8 GiB free."""
    monkeypatch.setattr("psutil.virtual_memory", lambda: SimpleNamespace(available=8 * GIB))


def system(tmp_path, own: str, groups: dict[str, tuple[str, int, int]], names: tuple[str, str, str]):
    """A /proc and a /sys with these control groups: path -> limit, taken, inactive files."""
    (tmp_path / "proc/self").mkdir(parents=True)
    (tmp_path / "proc/self/cgroup").write_text(f"5:cpu,cpuacct:/elsewhere\n{own}\n")
    for path, (limit, taken, inactive) in groups.items():
        directory = tmp_path / "sys/fs/cgroup" / path
        directory.mkdir(parents=True, exist_ok=True)
        limit_file, taken_file, inactive_name = names
        (directory / limit_file).write_text(f"{limit}\n")
        (directory / taken_file).write_text(f"{taken}\n")
        (directory / "memory.stat").write_text(f"anon 5\n{inactive_name} {inactive}\n")
    return tmp_path


TWO = ("memory.max", "memory.current", "inactive_file")
ONE = ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file")


@pytest.mark.parametrize(
    ("groups", "expected"),
    [
        ({"jobs/one": (str(4 * GIB), 3 * GIB, 0)}, GIB),
        ({"jobs/one": (str(4 * GIB), 3 * GIB, GIB)}, 2 * GIB),  # files in memory can be let go
        ({"jobs/one": ("max", 3 * GIB, 0)}, 8 * GIB),
        ({"jobs/one": ("max", 0, 0), "jobs": (str(2 * GIB), GIB // 2, 0)}, 3 * GIB // 2),  # of the group around it
        ({"": (str(3 * GIB), 2 * GIB, 0)}, GIB),  # a container, which sees its own group as the root
        ({"jobs/one": (str(GIB), 2 * GIB, 0)}, 0),
        ({"other": (str(GIB), 0, 0)}, 8 * GIB),
    ],
)
def test_of_version_2(tmp_path, groups, expected):
    assert available_memory(system(tmp_path, "0::/jobs/one", groups, TWO)) == expected


@pytest.mark.parametrize(
    ("limit", "expected"), [(str(4 * GIB), GIB + 5), ("9223372036854771712", 8 * GIB)], ids=["limited", "not limited"]
)
def test_of_version_1(tmp_path, limit, expected):
    groups = {"memory/jobs": (limit, 3 * GIB, 5)}
    assert available_memory(system(tmp_path, "7:memory:/jobs", groups, ONE)) == expected


def test_without_control_groups_the_machine_tells(tmp_path):
    assert available_memory(tmp_path) == 8 * GIB
