"""The tracked modules: which linear layers of a causal language model are traced.

The paper (Ruis et al. 2024, section 3) traces the weights of the MLP layers; `all` and regular expressions widen or
narrow that. `nn.Linear` stores its weight as O×I and GPT-2's `Conv1D` as I×O; nothing after this module needs to
know, because influence is computed from a module's inputs and output gradients, never from its weight's layout.
Experts that lie in one three-dimensional weight are linear modules too, each by its number (`compute/experts.py`):
`model.layers.0.mlp.experts.3.down_proj`. What chooses and weighs experts (routers, gates of shared experts) is not part
of the MLP's weights: "mlp" leaves it out; where it is a linear module, "all" and patterns reach it. Other weights that
a selection matches are refused or warned of; nothing is said of embeddings, norms and biases.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Iterator
from dataclasses import dataclass

from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from compute.errors import BadInput
from compute.experts import Expert, expert_weights, is_fused

MLP_PATTERN = r"(^|\.)(mlp|feed_forward|ffn|block_sparse_moe|experts)\.|(^|\.)(fc1|fc2)$"
ROUTER_PATTERN = re.compile(r"(^|_)(gate|router)$")
NO_LAYER, NO_WEIGHT = re.compile(r"Embedding|Norm(Gated)?$"), re.compile(r"bias|embed")
LOG = logging.getLogger(__name__)


@dataclass(frozen=True)
class TrackedModule:
    """One linear module: `name` in the model, `in_features` inputs, `out_features` outputs, with or without a bias.

    `expert` says where it lies, if it is one of the experts of a single weight.
    """

    name: str
    in_features: int
    out_features: int
    has_bias: bool
    expert: Expert | None = None

    @property
    def in_dim(self) -> int:
        """I of the formulas: inputs, and one more column of ones if there is a bias."""
        return self.in_features + self.has_bias

    @property
    def token_share(self) -> float:
        """The share of all tokens that reaches the module on average."""
        return self.expert.token_share if self.expert else 1.0


def linear_modules(model: nn.Module) -> dict[str, TrackedModule]:
    """Every linear module of `model` but the output head, by name, in the order of the forward pass's definition.

    The head is left out because a tied head shares its weight with the embedding: its gradient is not the gradient
    of one linear layer.
    """
    head = model.get_output_embeddings()
    found: dict[str, TrackedModule] = {}
    for name, module in model.named_modules():
        if isinstance(module, (nn.Linear, Conv1D)) and module is not head:
            found[name] = _describe(name, module)
        elif is_fused(module):
            found |= {each[0].name: _describe_expert(*each) for each in expert_weights(name, module)}
    return found


def product_without_bias(module: nn.Module, values: Tensor) -> Tensor:
    """A linear module's weight times rows of values, in the layout that it is stored in."""
    return values @ module.weight if isinstance(module, Conv1D) else nn.functional.linear(values, module.weight)


def select_modules(model: nn.Module, selection: str | list[str] | tuple[str, ...] = "mlp") -> tuple[TrackedModule, ...]:
    """The modules that `selection` names: "mlp", "all", or regular expressions searched for in module names.

    Raises BadInput where a pattern matches nothing, is not a regular expression, or where it matches weights that are
    not linear modules (of an MLP any, elsewhere experts of an unknown layout), since leaving them out silently would
    change the meaning of a score. Other such weights are left out with a warning that names them.
    """
    available, routers = linear_modules(model), set()
    patterns = _patterns(selection)
    if selection == "mlp":
        routers = _routers(model)
        available = {name: module for name, module in available.items() if name not in routers}
    untracked = list(_untracked_weights(model, {*available, *routers}, patterns))
    _refuse_largest(untracked, dimensions=2 if selection == "mlp" else 3)
    for pattern in patterns:
        if not any(pattern.search(name) for name in available):
            raise BadInput(
                f"curvature.modules: no linear module's name matches {pattern.pattern!r}; "
                f"this model has {_examples(available)}"
            )
    _warn_of(untracked)
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


def _describe_expert(expert: Expert, in_features: int, out_features: int, has_bias: bool) -> TrackedModule:
    return TrackedModule(expert.name, in_features, out_features, has_bias, expert)


def _routers(model: nn.Module) -> set[str]:
    """Names of the modules that stand next to experts and choose or weigh them, with what is in them."""
    blocks = {name.rpartition(".")[0] for name, module in model.named_modules() if is_fused(module)}
    return {
        f"{block}.{child}.{inner}".strip(".")
        for block in blocks
        for child, module in model.get_submodule(block).named_children()
        if ROUTER_PATTERN.search(child)
        for inner, _ in module.named_modules()
    }


def _examples(available: dict[str, TrackedModule]) -> str:
    """Module names, so that a 40-layer model is listed in one line."""
    return ", ".join(list(dict.fromkeys(map(_folded, available)))[:12]) or "no linear modules"


def _folded(name: str) -> str:
    """Without the layer's number."""
    return re.sub(r"\.\d+\.", ".N.", name)


@dataclass(frozen=True)
class _Untracked:
    """A weight that is no linear module's."""

    owner: nn.Module
    name: str
    weight: nn.Parameter

    @property
    def kind(self) -> str:
        return type(self.owner).__name__

    @property
    def is_convolution(self) -> bool:
        return isinstance(self.owner, (nn.Conv1d, nn.Conv2d))

    @property
    def is_worth_a_word(self) -> bool:
        """Nobody takes embeddings, norms and biases for weights of a linear layer."""
        return not (NO_LAYER.search(self.kind) or NO_WEIGHT.search(self.name.rpartition(".")[2]))


def _untracked_weights(model: nn.Module, known: set[str], patterns: list[re.Pattern[str]]) -> Iterator[_Untracked]:
    """The weights of two dimensions or more that the patterns match and `known` does not hold."""
    head = model.get_output_embeddings()
    for name, module in model.named_modules():
        if name in known or module is head or is_fused(module):
            continue
        for weight, parameter in module.named_parameters(name, recurse=False):
            if parameter.ndim >= 2 and any(pattern.search(weight) for pattern in patterns):
                yield _Untracked(module, weight, parameter)


def _refuse_largest(untracked: list[_Untracked], *, dimensions: int) -> None:
    """By name and kind, the largest of at least so many dimensions that is not a convolution's."""
    refused = [each for each in untracked if each.weight.ndim >= dimensions and not each.is_convolution]
    if refused:
        largest = max(refused, key=lambda each: each.weight.numel())
        raise BadInput(
            f"curvature.modules: {largest.name} belongs to a {largest.kind}, which cannot be tracked as a linear "
            "layer; name the linear modules to trace with patterns that do not match it"
        )


def _warn_of(untracked: list[_Untracked]) -> None:
    kinds = dict.fromkeys(f"{_folded(each.name)} ({each.kind})" for each in untracked if each.is_worth_a_word)
    if kinds:
        LOG.warning("curvature.modules: not tracked, since they are not linear layers: %s", ", ".join(kinds))
