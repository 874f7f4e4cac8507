"""All stages of a model that lies on two devices, which are played on the CPU."""

from __future__ import annotations

import pytest
import torch

from tests.compute.models import make_case
from tests.compute.places import Places, spread_over
from tests.compute.test_devices import differing_bits, everything

ZERO, ONE = torch.device("cuda", 0), torch.device("cuda", 1)
LAYERS = {
    "llama": {"model.embed_tokens": ZERO, "model.rotary_emb": ZERO, "model.layers.0": ZERO, "model.layers.1": ONE,
              "model.norm": ONE, "lm_head": ONE},
    "gpt_neox": {"gpt_neox.embed_in": ZERO, "gpt_neox.rotary_emb": ZERO, "gpt_neox.layers.0": ZERO,
                 "gpt_neox.layers.1": ONE, "gpt_neox.final_layer_norm": ONE, "embed_out": ZERO, "lm_head": ZERO},
}  # fmt: skip


def test_the_play_tells_what_two_devices_would():
    with Places() as places:
        one, other = places.put(torch.ones(2), ZERO), places.put(torch.ones(2), ONE)
        with pytest.raises(RuntimeError, match=r"cuda:0.*cuda:1"):
            _ = one + other
        assert (one.to(ONE) + other).device == ONE and one.device == ZERO
        assert torch.zeros(2, device=ONE).device == ONE and torch.zeros(2).device.type == "cpu"
        with pytest.raises(RuntimeError):
            torch.stack([one * 2, other[:1].sum(0, keepdim=True).expand(2)])


@pytest.mark.parametrize("family", LAYERS)
def test_a_model_on_two_devices_computes_what_it_computes_on_one(family):
    case = make_case(family, dtype=torch.float32, tie_word_embeddings=False)
    expected = everything(case.model, case.modules)
    with Places() as places:
        spread_over(case.model, places, LAYERS[family])
        found = everything(case.model, case.modules)
        first, second = (
            next(values for name, values in found["A"].items() if f".{layer}." in name) for layer in (0, 1)
        )
        assert (first.device, second.device) == (ZERO, ONE)  # factors stay where their module computes
    assert places.moves > 10 and places.met > 1000
    for what in ("scores", "norms", "exact", "nats", "code factors", "indexed norms"):
        torch.testing.assert_close(torch.as_tensor(found[what]), torch.as_tensor(expected[what]), rtol=1e-4, atol=1e-4)
    assert found["completions"] == expected["completions"]
    assert differing_bits(found["codes"], expected["codes"]) <= 3  # of 3,072
