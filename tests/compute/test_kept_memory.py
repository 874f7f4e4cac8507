"""That a pass keeps freed memory, gives it back when it ends, and leaves the C library as it was."""

from __future__ import annotations

import subprocess
import sys
import textwrap

import pytest
import torch

from compute.kept_memory import _glibc, memory_kept

SCRIPT = """
import resource
import torch
from compute.kept_memory import memory_kept

MIB = 2**18  # elements of float32

def faults(tensors):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(8):
        held = [torch.ones(MIB * 40) for _ in range(tensors)]
        del held
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

def resident():
    return int(open("/proc/self/statm").read().split()[1]) * 4096 / 2**20

cpu = torch.device("cpu")
faults(2)
usual, at_rest = faults(2), resident()
with memory_kept(cpu):
    faults(2)
    with memory_kept(cpu):
        faults(2)
    kept, inside = faults(2), resident()
print(usual, kept, inside - at_rest, resident() - at_rest, faults(2))
"""
"""80 MiB at a time: a fault is a page of 4 KiB, so that 8 times take 163,840 of them where nothing is kept."""


@pytest.mark.skipif(_glibc() is None, reason="another C library than glibc keeps memory by its own rules")
def test_a_pass_keeps_what_it_frees_and_gives_it_back_at_its_end():
    run = subprocess.run([sys.executable, "-c", textwrap.dedent(SCRIPT)], capture_output=True, text=True, check=True)
    usual, kept, inside, after, again = (float(each) for each in run.stdout.split())
    assert usual > 100_000 and again > 10_000  # every page anew; afterwards some fit in what lies between
    assert kept < 1_000
    assert inside > 50 and after < 10  # MiB above what was there at rest


def test_it_does_nothing_for_a_gpu(monkeypatch):
    monkeypatch.setattr("compute.kept_memory._glibc", lambda: pytest.fail("the C library was asked for"))
    with memory_kept(torch.device("cuda")):
        pass


def test_it_does_nothing_with_another_c_library(monkeypatch):
    monkeypatch.setattr("compute.kept_memory._glibc", lambda: None)
    with memory_kept(torch.device("cpu")):
        pass
