"""The tracked modules: which linear layers of a causal language model are traced.

The paper (Ruis et al. 2024, section 3) traces the weights of the MLP layers; `all` and regular expressions widen or
narrow that. `nn.Linear` stores its weight as O×I and GPT-2's `Conv1D` as I×O; nothing after this module needs to
know, because influence is computed from a module's inputs and output gradients, never from its weight's layout.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from torch import nn
from transformers.pytorch_utils import Conv1D

from compute.errors import BadInput

MLP_PATTERN = r"(^|\.)(mlp|feed_forward|ffn|block_sparse_moe)\.|(^|\.)(fc1|fc2)$"


@dataclass(frozen=True)
class TrackedModule:
    """One linear module: `name` in the model, `in_features` inputs, `out_features` outputs, with or without a bias."""

    name: str
    in_features: int
    out_features: int
    has_bias: bool

    @property
    def in_dim(self) -> int:
        """I of the formulas: inputs, and one more column of ones if there is a bias."""
        return self.in_features + self.has_bias


def linear_modules(model: nn.Module) -> dict[str, TrackedModule]:
    """Every linear module of `model` but the output head, by name, in the order of the forward pass's definition.

    The head is left out because a tied head shares its weight with the embedding: its gradient is not the gradient
    of one linear layer.
    """
    head = model.get_output_embeddings()
    return {
        name: _describe(name, module)
        for name, module in model.named_modules()
        if isinstance(module, (nn.Linear, Conv1D)) and module is not head
    }


def select_modules(model: nn.Module, selection: str | list[str] | tuple[str, ...] = "mlp") -> tuple[TrackedModule, ...]:
    """The modules that `selection` names: "mlp", "all", or regular expressions searched for in module names.

    Raises BadInput where a pattern matches nothing, is not a regular expression, or where MLP weights exist that
    are not linear modules (fused experts), since leaving them out silently would change the meaning of a score.
    """
    available = linear_modules(model)
    patterns = _patterns(selection)
    if selection == "mlp":
        _refuse_untracked_weights(model, available, patterns[0])
    for pattern in patterns:
        if not any(pattern.search(name) for name in available):
            raise BadInput(
                f"curvature.modules: no linear module's name matches {pattern.pattern!r}; "
                f"this model has {_examples(available)}"
            )
    return tuple(module for name, module in available.items() if any(p.search(name) for p in patterns))


def _patterns(selection: str | list[str] | tuple[str, ...]) -> list[re.Pattern[str]]:
    if isinstance(selection, str):
        selection = [{"mlp": MLP_PATTERN, "all": ""}.get(selection, selection)]
    try:
        return [re.compile(pattern) for pattern in selection]
    except re.error as error:
        raise BadInput(f"curvature.modules: {error.pattern!r} is not a regular expression: {error}") from error


def _describe(name: str, module: nn.Module) -> TrackedModule:
    in_features, out_features = (
        module.weight.shape if isinstance(module, Conv1D) else (module.in_features, module.out_features)
    )
    return TrackedModule(name, in_features, out_features, module.bias is not None)


def _examples(available: dict[str, TrackedModule]) -> str:
    """Module names with layer numbers folded, so that a 40-layer model is listed in one line."""
    folded = dict.fromkeys(re.sub(r"\.\d+\.", ".N.", name) for name in available)
    return ", ".join(list(folded)[:12]) or "no linear modules"


def _refuse_untracked_weights(model: nn.Module, available: dict, pattern: re.Pattern[str]) -> None:
    untracked = {
        name: parameter.numel()
        for name, parameter in model.named_parameters()
        if parameter.ndim >= 2 and pattern.search(name) and name.rpartition(".")[0] not in available
    }
    if untracked:
        largest = max(untracked, key=untracked.__getitem__)
        kind = type(model.get_submodule(largest.rpartition(".")[0])).__name__
        raise BadInput(
            f"curvature.modules: {largest} belongs to a {kind}, which cannot be tracked as a linear layer; "
            "name the linear modules to trace with patterns instead of 'mlp'"
        )
