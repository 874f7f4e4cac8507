"""The loss from the head's input on: equal to autograd through the whole model, whatever it does to its logits."""

from __future__ import annotations

import pytest
import torch
from transformers import AutoModelForCausalLM, CohereConfig, Gemma2Config, GPTNeoXConfig, GraniteConfig

import compute.token_loss
from compute.capture import captured
from compute.token_loss import batch_loss, run_batch
from compute.tracked_modules import select_modules
from tests.compute.models import CONTEXT, NO_SPECIAL_TOKENS, VOCABULARY, batches_of, random_documents, random_queries

SIZES = {
    "vocab_size": VOCABULARY,
    "hidden_size": 16,
    "intermediate_size": 40,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "max_position_embeddings": CONTEXT,
    **NO_SPECIAL_TOKENS,
}
AFTER_THE_HEAD = {
    "nothing": GPTNeoXConfig(**SIZES),
    "soft cap": Gemma2Config(**SIZES, num_key_value_heads=1, head_dim=8, final_logit_softcapping=3.0),
    "scale": CohereConfig(**SIZES, num_key_value_heads=2, logit_scale=0.0625 * 4),
    "divisor": GraniteConfig(**SIZES, num_key_value_heads=2, logits_scaling=3.0),
}


def model_of(config) -> torch.nn.Module:
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(config).double().eval().requires_grad_(False)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    return model


def by_autograd(model, batch, modules) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    """Loss per sequence and g_BTO per module, by cross_entropy on the model's own logits."""
    outputs: dict[str, torch.Tensor] = {}
    handles = []
    for module in modules:

        def keep(_, __, output, name=module.name):
            output = output.detach().clone().requires_grad_() if not output.requires_grad else output
            outputs[name] = output
            output.retain_grad()
            return output

        handles.append(model.get_submodule(module.name).register_forward_hook(keep))
    logits = model(input_ids=batch.token_ids_BT, attention_mask=batch.attention_BT).logits
    for handle in handles:
        handle.remove()
    labels = batch.token_ids_BT.masked_fill(~batch.target_BT, -100)[:, 1:]
    loss_BT = torch.nn.functional.cross_entropy(logits[:, :-1].transpose(1, 2), labels, reduction="none")
    loss_BT.sum().backward()
    return loss_BT.sum(1).detach(), {name: output.grad for name, output in outputs.items()}


def gradients_of(model, batch, modules) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    found: dict[str, torch.Tensor] = {}
    with captured(model, modules, lambda module, _, gradient: found.update({module.name: gradient})):
        return run_batch(model, batch), found


@pytest.mark.parametrize("after", AFTER_THE_HEAD)
@pytest.mark.parametrize("logits_at_once", [1, 2**20])
def test_loss_and_gradients_are_those_of_the_whole_model(after, logits_at_once, monkeypatch):
    monkeypatch.setattr(compute.token_loss, "LOGITS_AT_ONCE", logits_at_once)
    model = model_of(AFTER_THE_HEAD[after])
    modules = select_modules(model)
    (batch,) = batches_of([*random_documents(5), *random_queries(3)], token_budget=8192)
    expected_B, expected = by_autograd(model, batch, modules)
    loss_B, found = gradients_of(model, batch, modules)
    # Norms and rotary positions are float32 in some of these models.
    torch.testing.assert_close(loss_B, expected_B, rtol=1e-6, atol=1e-9)
    assert found.keys() == expected.keys()
    for name in expected:
        torch.testing.assert_close(found[name], expected[name], rtol=1e-5, atol=1e-9)
    torch.testing.assert_close(batch_loss(model, batch), expected_B, rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
def test_the_head_is_looked_at_in_every_precision(monkeypatch, dtype):
    """A tenth off is far beyond rounding, also of half precisions."""
    for scale, left_out in ((1.0, True), (1.1, False)):
        model = model_of(AFTER_THE_HEAD["nothing"]).to(dtype)
        forward = model.forward

        def scaled(forward=forward, scale=scale, **inputs):
            output = forward(**inputs)
            output.logits = output.logits * scale
            return output

        monkeypatch.setattr(model, "forward", scaled)
        (batch,) = batches_of(random_documents(4), token_budget=8192)
        batch_loss(model, batch)
        assert compute.token_loss._leaves_the_head_out[model] is left_out


def test_a_head_that_is_not_all_is_told_and_the_models_own_logits_are_taken(monkeypatch, caplog):
    """A model that does something else to its logits, which nothing in its configuration tells."""
    model = model_of(AFTER_THE_HEAD["nothing"])
    forward = model.forward

    def squared(**inputs):
        output = forward(**inputs)
        output.logits = output.logits.sign() * output.logits.square()
        return output

    monkeypatch.setattr(model, "forward", squared)
    modules = select_modules(model)
    (batch,) = batches_of(random_documents(4), token_budget=8192)
    expected_B, expected = by_autograd(model, batch, modules)
    for _ in range(2):  # the first batch is where it is found out
        loss_B, found = gradients_of(model, batch, modules)
        torch.testing.assert_close(loss_B, expected_B, rtol=1e-6, atol=1e-9)
        for name in expected:
            torch.testing.assert_close(found[name], expected[name], rtol=1e-5, atol=1e-9)
    assert [each.levelname for each in caplog.records] == ["WARNING"]  # once for a model
    assert "GPTNeoXForCausalLM: its logits are not what its head" in caplog.text


def test_logits_are_made_where_a_token_carries_loss_and_some_at_a_time(monkeypatch):
    at_once = 20
    monkeypatch.setattr(compute.token_loss, "LOGITS_AT_ONCE", at_once * VOCABULARY)
    model = model_of(AFTER_THE_HEAD["nothing"])
    modules, queries = select_modules(model), random_queries(30)
    (batch,) = batches_of(queries, token_budget=8192)
    run_batch_rows: list[int] = []
    gradients_of(model, batch, modules)  # the first batch looks whether the head is all
    handle = model.lm_head.register_forward_hook(lambda _, __, output: run_batch_rows.append(output[..., 0].numel()))
    gradients_of(model, batch, modules)
    handle.remove()
    completion_tokens = sum(len(query) - query.loss_start for query in queries)
    assert max(run_batch_rows) <= max(at_once, len(queries))
    assert sum(run_batch_rows) == completion_tokens + len(queries)  # and one position of each, of the model's own pass
