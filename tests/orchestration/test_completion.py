"""Completion in the shell: installed into a home of the test, and asked by a real bash."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys

import pytest

from tests.docs.blocks import ROOT

pytestmark = pytest.mark.skipif(shutil.which("bash") is None, reason="there is no bash")


@pytest.fixture
def environment(tmp_path) -> dict[str, str]:
    programs = tmp_path / "bin"
    programs.mkdir()
    (programs / "headwater").write_text(f'#!/bin/sh\nexec "{sys.executable}" -m orchestration.cli "$@"\n')
    (programs / "headwater").chmod(0o755)
    path = f"{programs}{os.pathsep}{os.environ['PATH']}"
    return os.environ | {"HOME": str(tmp_path), "PATH": path, "PYTHONPATH": str(ROOT)}


def bash(environment: dict[str, str], script: str) -> str:
    result = subprocess.run(["bash", "-c", script], env=environment, capture_output=True, text=True, timeout=120)
    assert result.returncode == 0, result.stderr
    return result.stdout


@pytest.mark.parametrize(
    ("words", "completed"),
    [("headwater st", {"studies"}), ("headwater top demo --r", {"--ranking"}), ("headwater explore --po", {"--port"})],
)
def test_bash_completes_what_was_installed(environment, tmp_path, words, completed):
    # The shell is told by the parent of the process; a single command would take the place of its shell.
    assert "installed" in bash(environment, "headwater --install-completion && :")
    assert (tmp_path / ".bash_completions/headwater.sh").exists()
    assert "headwater.sh" in (tmp_path / ".bashrc").read_text()
    script = (
        f". ~/.bash_completions/headwater.sh; complete -p headwater >&2; COMP_WORDS=({words}); "
        'COMP_CWORD=$((${#COMP_WORDS[@]} - 1)); _headwater_completion headwater; printf "%s\\n" "${COMPREPLY[@]}"'
    )
    assert set(bash(environment, script).split()) == completed
