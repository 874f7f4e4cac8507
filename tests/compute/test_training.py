"""Training from scratch: it learns, same inputs give same weights, packing hides nothing, mistakes are named."""

from __future__ import annotations

import dataclasses
import math

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from compute import training
from compute.errors import BadInput
from compute.packing import PackedRows
from compute.tokenizer import tokenizer_fingerprint, train_tokenizer
from compute.training import TrainSettings, empty_model, train_causal_lm

TEXTS = [f"{a} + {b} = {a + b}" for a in range(1, 6) for b in range(1, 6)]
TINY = TrainSettings(hidden_size=16, layers=2, heads=2, intermediate_size=32, context=24, batch_size=4, epochs=2)


@pytest.fixture(scope="module")
def tokenizer():
    return train_tokenizer(TEXTS, vocab_size=300)


@pytest.fixture(scope="module")
def documents(tokenizer):
    return [tokenizer(text)["input_ids"] + [tokenizer.eos_token_id] for text in TEXTS]


def _train(documents, tokenizer, directory, **changes):
    return train_causal_lm(documents, tokenizer, dataclasses.replace(TINY, **changes), directory=directory)


def _rows(documents, settings):
    return PackedRows(documents, context=settings.context, epochs=settings.epochs, seed=settings.seed)


@pytest.mark.parametrize("architecture", training.ARCHITECTURES)
def test_it_learns_and_the_saved_model_is_the_trained_one(architecture, documents, tokenizer, tmp_path):
    summary = _train(documents, tokenizer, tmp_path, architecture=architecture, epochs=30, learning_rate=1e-2)
    assert summary.loss < 0.5 * math.log(len(tokenizer))
    model = AutoModelForCausalLM.from_pretrained(tmp_path)
    assert model.config.model_type == architecture
    assert _mean_loss(model, documents) == pytest.approx(summary.loss, abs=0.3)
    assert tokenizer_fingerprint(AutoTokenizer.from_pretrained(tmp_path)) == tokenizer_fingerprint(tokenizer)


def test_same_inputs_same_weights_and_another_seed_others(documents, tokenizer, tmp_path):
    for name, seed in (("one", 0), ("again", 0), ("other", 1)):
        _train(documents, tokenizer, tmp_path / name, seed=seed)
    one, again, other = (load_file(tmp_path / name / "model.safetensors") for name in ("one", "again", "other"))
    assert all(torch.equal(one[name], again[name]) for name in one)
    assert any(not torch.equal(one[name], other[name]) for name in one)


@pytest.mark.parametrize("architecture", training.ARCHITECTURES)
def test_packed_rows_have_the_loss_of_documents_alone(architecture, documents):
    settings = dataclasses.replace(TINY, architecture=architecture, epochs=1)
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(training._config(settings, 300)).eval()
    rows = _rows(documents, settings)
    batch = rows.collate(rows.rows)
    assert any(len(row) > 1 for row in rows.rows)
    with torch.no_grad():
        packed = model(**batch).loss.item()
    assert packed == pytest.approx(_mean_loss(model, documents), rel=1e-5)


def test_every_epoch_has_every_document_once(documents):
    rows = _rows(documents, dataclasses.replace(TINY, epochs=3))
    seen = sorted(index for row in rows.rows for index in row)
    assert seen == sorted(list(range(len(documents))) * 3)
    assert all(sum(len(documents[index]) for index in row) <= TINY.context for row in rows.rows)


def test_logs_and_progress_are_passed_on(documents, tokenizer, tmp_path):
    logs, steps = [], []
    summary = train_causal_lm(
        documents, tokenizer, TINY, directory=tmp_path,
        on_log=lambda values, step: logs.append((step, values)),
        on_progress=lambda done, total: steps.append((done, total)),
    )  # fmt: skip
    assert steps == [(step, summary.planned_steps) for step in range(1, summary.steps + 1)]
    assert logs and all({"loss", "learning_rate"} <= set(values) for _, values in logs)
    assert summary.tokens == 2 * sum(map(len, documents))


def test_time_limit_ends_the_run_with_the_rate_at_its_end(documents, tokenizer, tmp_path):
    logs = []
    settings = dataclasses.replace(TINY, epochs=500, max_minutes=0.02)
    summary = train_causal_lm(
        documents, tokenizer, settings, directory=tmp_path, on_log=lambda values, step: logs.append(values)
    )
    assert summary.steps < summary.planned_steps
    assert summary.seconds < 10
    assert logs[-1]["learning_rate"] < 0.1 * settings.learning_rate
    assert (tmp_path / "model.safetensors").exists()


def test_a_loss_that_is_not_finite_saves_nothing(documents, tokenizer, tmp_path):
    with pytest.raises(BadInput, match="learning_rate"):
        _train(documents, tokenizer, tmp_path, learning_rate=1e30, max_grad_norm=1e30, epochs=20, warmup=0.0)
    assert not (tmp_path / "model.safetensors").exists()


def test_documents_of_one_token_are_left_out(documents, tokenizer, tmp_path):
    assert _train([[5], *documents, []], tokenizer, tmp_path).documents == len(documents)


def test_mistakes_in_documents_are_named(documents, tokenizer, tmp_path):
    with pytest.raises(BadInput, match="no document of at least two tokens"):
        _train([[1], []], tokenizer, tmp_path)
    with pytest.raises(BadInput, match="25 tokens, more than the model's context of 24"):
        _train([*documents, [1] * 25], tokenizer, tmp_path)
    with pytest.raises(BadInput, match=f"token {len(tokenizer)}"):
        _train([*documents, [1, len(tokenizer)]], tokenizer, tmp_path)


@pytest.mark.parametrize(
    ("changes", "culprit"),
    [
        ({"architecture": "rnn"}, "architecture"),
        ({"hidden_size": 18, "heads": 4}, "hidden_size"),
        ({"heads": 16, "hidden_size": 16}, "hidden_size / heads"),
        ({"epochs": 0}, "epochs"),
        ({"context": 1}, "context"),
        ({"warmup": 1.0}, "warmup"),
        ({"learning_rate": 0.0}, "learning_rate"),
        ({"max_minutes": 0}, "max_minutes"),
    ],
)
def test_mistakes_in_settings_are_named(changes, culprit):
    with pytest.raises(BadInput, match=culprit):
        dataclasses.replace(TINY, **changes)


@pytest.mark.parametrize("architecture", training.ARCHITECTURES)
def test_empty_model_has_the_modules_and_no_weights(architecture, documents, tokenizer, tmp_path):
    settings = dataclasses.replace(TINY, architecture=architecture)
    empty = empty_model(settings, len(tokenizer))
    _train(documents, tokenizer, tmp_path, architecture=architecture)
    trained = AutoModelForCausalLM.from_pretrained(tmp_path)
    assert {parameter.device.type for parameter in empty.parameters()} == {"meta"}
    assert [(name, p.shape) for name, p in empty.named_parameters()] == [
        (name, p.shape) for name, p in trained.named_parameters()
    ]


def _mean_loss(model, documents) -> float:
    """Cross-entropy per predicted token, one document at a time."""
    total, count = 0.0, 0
    with torch.no_grad():
        for document in documents:
            logits = model(input_ids=torch.tensor([document])).logits[0, :-1]
            total += torch.nn.functional.cross_entropy(logits, torch.tensor(document[1:]), reduction="sum").item()
            count += len(document) - 1
    return total / count
