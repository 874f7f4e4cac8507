"""Python and SQL of README and docs, on the results of a real run."""

from __future__ import annotations

import os
import re
import subprocess
import sys

import pytest

from assets.lake.lake import Lake
from orchestration.results import Results
from tests.docs.blocks import ROOT, commands, of
from tests.orchestration.tiny_study import QUERIES


@pytest.mark.parametrize("block", [each for each in of("python") if not each.title], ids=lambda block: block.place)
def test_python_runs_on_the_results_of_a_study(block, finished):
    """With the tiny study's names in place of the page's."""
    text = block.text.replace("study/demo/", "study/tiny/").replace('"demo"', '"tiny"')
    text = text.replace('"arithmetic-00"', f'"{QUERIES[0]["id"]}"')
    text = text.replace('".headwater/', f'"{finished.home}/')
    environment = os.environ | {"HEADWATER_HOME": str(finished.home), "PYTHONPATH": str(ROOT)}
    result = subprocess.run([sys.executable, "-c", text], env=environment, capture_output=True, text=True, timeout=240)
    assert result.returncode == 0, result.stderr


def test_sql_of_the_pages_is_answered(finished):
    """Each SELECT that pages give to `headwater sql`, with the tiny study's name: it has no judge, no ablation."""
    results = Results(Lake(uri=str(finished.home / "lake")))
    queries = {
        word
        for _, words in commands("headwater")
        if words[1:2] == ["sql"]
        for word in words[2:]
        if word.startswith("SELECT")
    }
    assert len(queries) > 6
    for query in sorted(queries):
        if not re.search("FROM (verdicts|ablation)", query):
            results.sql(re.sub(r"study = '[a-z-]+'", "study = 'tiny'", query)).collect()
