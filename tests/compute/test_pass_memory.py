"""What the pass keeps in memory, at a number of queries whose factors alone are several times the budget."""

from __future__ import annotations

import subprocess
import sys

import pytest

MIB = 2**20
BUDGET = 48 * MIB
# The queries' factors stand in a mapped file, as those that are stored do. Anonymous memory is what the system cannot
# put out of the memory; a thread looks at it all the time.
MEASURE = """
import ctypes, sys, tempfile, threading, torch
from transformers import AutoModelForCausalLM, GPTNeoXConfig
from compute.batches import Sequence
from compute.influence import InfluencePass
from compute.low_rank import LowRankGradient
from compute.tracked_modules import select_modules

queries, budget, rank = int(sys.argv[1]), int(sys.argv[2]), 8
torch.set_num_threads(1)
torch.manual_seed(0)
model = AutoModelForCausalLM.from_config(GPTNeoXConfig(
    vocab_size=256, hidden_size=256, num_hidden_layers=2, num_attention_heads=4, intermediate_size=1024,
    max_position_embeddings=64,
))
modules = select_modules(model, "mlp")
of_query = rank * sum(each.out_features + each.in_dim for each in modules)
with tempfile.NamedTemporaryFile() as file:
    values = torch.from_file(file.name, shared=True, size=queries * of_query)
    print("factors", 4 * queries * of_query, flush=True)
    gradients = []
    for row in values.view(queries, of_query):
        row.normal_()
        sides = iter(row.split([rank * side for each in modules for side in (each.out_features, each.in_dim)]))
        gradients.append({each.name: LowRankGradient(next(sides).view(rank, -1).T, next(sides).view(rank, -1).T)
                          for each in modules})
    documents = [Sequence(f"d{n}", torch.randint(256, (64,)).tolist()) for n in range(24)]

    def anonymous():
        lines = open("/proc/self/status").read().splitlines()
        return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("RssAnon"))

    InfluencePass(model, modules, gradients[:1], typical_tokens=64, token_budget=512).score(documents[:8])  # warm
    ctypes.CDLL(None).malloc_trim(0)
    before, most, done = anonymous(), [0], threading.Event()

    def look():
        while not done.is_set():
            most[0] = max(most[0], anonymous())
            done.wait(0.002)

    thread = threading.Thread(target=look)
    thread.start()
    influence = InfluencePass(model, modules, gradients, typical_tokens=64, token_budget=512, memory_bytes=budget)
    scores = influence.score(documents)
    done.set()
    thread.join()
    assert scores.scores_QD.shape == (queries, len(documents)) and scores.scores_QD.any()
    print("routes", *set(influence.chosen.names().values()))
    print("added", most[0] - before)
"""


@pytest.mark.slow
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
def test_memory_is_bounded_whatever_the_number_of_queries():
    found = {}
    for queries in (100, 1_200):
        command = [sys.executable, "-c", MEASURE, str(queries), str(BUDGET)]
        done = subprocess.run(command, capture_output=True, text=True, timeout=300)
        assert done.returncode == 0, done.stderr
        found[queries] = dict(line.split(" ", 1) for line in done.stdout.splitlines())
    assert int(found[1_200]["factors"]) > 3 * BUDGET
    assert "formed" not in found[1_200]["routes"]
    added = {queries: int(each["added"]) for queries, each in found.items()}
    # On top of the budget come a batch's activations, and the scores of 1,200 queries: a few MiB.
    assert all(each < BUDGET + 32 * MIB for each in added.values()), added
