"""A study of a model with routed experts, through the command line."""

from __future__ import annotations

import polars as pl
import pytest
from transformers import AutoModelForCausalLM, AutoTokenizer, MixtralConfig
from typer.testing import CliRunner

from compute.errors import BadInput
from orchestration.cli import app
from orchestration.preflight import preflight
from orchestration.studies import read_study
from tests.orchestration.tiny_study import CONTEXT, headwater, write_checkpoint, write_study


@pytest.fixture
def directory(tmp_path):
    """It has a checkpoint of four experts, of which two see each token."""
    write_checkpoint(tmp_path / "model")
    config = MixtralConfig(
        vocab_size=len(AutoTokenizer.from_pretrained(tmp_path / "model")),
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=2,
        max_position_embeddings=CONTEXT,
        num_local_experts=4,
        num_experts_per_tok=2,
    )
    AutoModelForCausalLM.from_config(config).save_pretrained(tmp_path / "model")
    return tmp_path


def plan(directory, **changes):
    arguments = ["plan", str(write_study(directory, **changes)), "--hardware", "h100"]
    return CliRunner().invoke(app, arguments, env={"HEADWATER_HOME": str(directory / "home")})


def test_it_is_planned(directory):
    result = plan(directory)
    assert result.exit_code == 0, result.output
    assert "16 tracked modules with 49.2 k weights" in result.stdout


def test_astra_is_refused_before_work(directory):
    methods = {"options": {"methods": ["ekfac", "astra"]}}
    planned = plan(directory, **methods)
    with pytest.raises(BadInput, match=r"options\.methods: astra cannot refine routed experts") as refused:
        preflight(read_study(write_study(directory, **methods)))
    assert planned.exit_code == 1 and planned.stderr.strip() == f"headwater: {refused.value}"


@pytest.mark.slow
def test_it_is_run_from_the_files_to_the_report(directory):
    study, home = write_study(directory), directory / "home"
    result = headwater(home, "run", study)
    assert result.returncode == 0, result.stderr
    scores = pl.read_delta(str(home / "lake/study/tiny/influence"))
    assert scores["score"].is_finite().all() and scores["score"].n_unique() > len(scores) // 2
    planned = headwater(home, "plan", study)
    assert planned.returncode == 0 and "Last time: " in planned.stdout, planned.stderr
