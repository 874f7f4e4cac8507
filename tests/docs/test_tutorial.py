"""The tutorial as a reader follows it: every block in order, in an empty directory; what the page shows is printed."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.docs.blocks import ROOT, Block, blocks, missing_lines
from tests.ui.running import free_ports

TUTORIAL = ROOT / "docs/tutorial.md"
TIMEOUT = 600


@pytest.fixture
def reader(tmp_path) -> tuple[Path, dict[str, str]]:
    """An empty directory, and an environment in which `headwater` and `python` are found."""
    programs, place = tmp_path / "bin", tmp_path / "empty"
    programs.mkdir()
    place.mkdir()
    for name, arguments in (("headwater", "-m orchestration.cli "), ("python", "")):
        (programs / name).write_text(f'#!/bin/sh\nexec "{sys.executable}" {arguments}"$@"\n')
        (programs / name).chmod(0o755)
    variables = {name: value for name, value in os.environ.items() if not name.startswith("HEADWATER_")}
    path = f"{programs}{os.pathsep}{os.environ['PATH']}"
    return place, variables | {"PATH": path, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}


@pytest.mark.slow
def test_every_block_of_the_tutorial_works_and_prints_what_the_page_shows(reader):
    place, environment = reader
    absent: dict[str, list[str]] = {}
    for block, expected in steps():
        if block.title:
            (place / block.title).write_text(block.text)
        elif "headwater explore" in block.text:
            look_at_explorer(block, place, environment)
        else:
            printed = done(block, place, environment)
            if lines := missing_lines(expected, printed):
                absent[f"{block.place}\n{printed}"] = lines
    assert not absent, "\n".join(f"{where}\n  lacks {lines}" for where, lines in absent.items())


def steps() -> Iterator[tuple[Block, str]]:
    """What is to be written or run, each with what the page shows of its output."""
    every = list(blocks(TUTORIAL, "python", "shell", "text", "yaml"))
    assert len([block for block in every if block.language == "shell"]) > 12
    assert all(block.title for block in every if block.language == "python"), "each is saved as a file and run"
    for block, following in zip(every, [*every[1:], None], strict=True):
        if block.language in ("python", "shell"):
            yield block, following.text if following and following.language in ("text", "yaml") else ""


def done(block: Block, place: Path, environment: dict[str, str]) -> str:
    result = subprocess.run(
        ["bash", "-e", "-c", block.text],
        cwd=place,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=TIMEOUT,
    )
    assert result.returncode == 0, f"{block.place}\n{result.stdout}"
    return result.stdout


def look_at_explorer(block: Block, place: Path, environment: dict[str, str]) -> None:
    (port,) = free_ports(1)
    command = block.text.replace("8265", str(port)).split()
    with subprocess.Popen(command, cwd=place, env=environment, start_new_session=True) as server:
        try:
            assert "capital-golda" in page_of(f"http://127.0.0.1:{port}/study?study=capitals", server)
        finally:
            os.killpg(server.pid, signal.SIGINT)
    assert server.returncode in (0, 130, -signal.SIGINT)


def page_of(address: str, server: subprocess.Popen) -> str:
    deadline = time.monotonic() + 120
    while server.poll() is None and time.monotonic() < deadline:
        try:
            with urllib.request.urlopen(address, timeout=30) as answer:
                return answer.read().decode()
        except urllib.error.URLError:
            time.sleep(0.5)
    pytest.fail(f"{address} was not there")
