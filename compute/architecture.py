"""A model as its costs depend on it: linear modules in the order of the forward pass, attention, head, parameters.

Found by one forward pass of a few tokens through the skeleton on the meta device, where tensors have shapes and no
memory. It tells what no configuration does: which modules share their input, and where backward stops, since the graph
begins at the outputs of the lowest tracked modules (`compute/capture.py`). Which tokens reach which expert of a layer
it does not tell: each is taken to see its share of them (`TrackedModule.token_share`).
"""

from __future__ import annotations

import re
from collections.abc import Sequence as SequenceOf
from contextlib import ExitStack
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from compute.checkpoint import parameter_count
from compute.errors import BadInput
from compute.experts import RoutedTokens, Watch, all_for_all, expert_name
from compute.tracked_modules import MLP_PATTERN, TrackedModule, linear_modules

TOKENS = 4


@dataclass(frozen=True)
class LinearModule:
    """One linear module. `shares_input`: a tracked module before it has the same input, and so the same A."""

    module: TrackedModule
    tracked: bool
    shares_input: bool
    backward: bool  # whether backward goes through it, to its input

    @property
    def weights(self) -> int:
        return self.module.out_features * self.module.in_features

    @property
    def weights_per_token(self) -> float:
        """Those that a token meets on average."""
        return self.module.token_share * self.weights


@dataclass(frozen=True)
class Architecture:
    """What a pass over tokens is made of. `attention_width` is heads × width of a head."""

    linears: tuple[LinearModule, ...]
    attention_layers: int
    attention_layers_backward: int
    attention_width: int
    width: int
    vocabulary: int
    parameters: int

    @property
    def tracked(self) -> tuple[LinearModule, ...]:
        return tuple(each for each in self.linears if each.tracked)

    @property
    def head_weights(self) -> int:
        return self.width * self.vocabulary


def architecture_of(skeleton: nn.Module, modules: SequenceOf[TrackedModule]) -> Architecture:
    """The architecture of a model on the meta device. Raises BadInput where its forward pass needs real numbers."""
    linears = _traced(skeleton, {module.name for module in modules})
    config = skeleton.config.get_text_config()
    heads, layers = getattr(config, "num_attention_heads", 0), getattr(config, "num_hidden_layers", 0)
    width, embeddings = config.hidden_size, skeleton.get_input_embeddings().weight
    head = skeleton.get_output_embeddings()
    return Architecture(
        linears=linears,
        attention_layers=layers,
        attention_layers_backward=_attention_passed(linears, layers),
        attention_width=heads * (getattr(config, "head_dim", None) or width // max(1, heads)),
        width=width if head is None else head.weight.shape[1],
        vocabulary=embeddings.shape[0],
        parameters=parameter_count(skeleton),
    )


def _traced(skeleton: nn.Module, tracked: set[str]) -> tuple[LinearModule, ...]:
    """The linear modules in the order in which they are called."""
    described, found, kept = linear_modules(skeleton), [], []
    inputs: set[int] = set()  # of tracked modules, by identity: `kept` keeps them from being let go

    def seen(name: str, value: Tensor, output: Tensor, *, shares: bool) -> Tensor:
        found.append(LinearModule(described[name], name in tracked, shares, value.requires_grad))
        return output.detach().requires_grad_(True) if name in tracked and not output.requires_grad else output

    def watch(name: str):
        def hook(_, args: tuple[Tensor, ...], output: Tensor) -> Tensor:
            shares = name in tracked and id(args[0]) in inputs
            kept.append(args[0])
            if name in tracked:
                inputs.add(id(args[0]))
            return seen(name, args[0], output, shares=shares)

        return hook

    def watch_experts(layer: str) -> Watch:
        def watched(number: int, projection: str, value: Tensor, output: Tensor, _: RoutedTokens | None) -> Tensor:
            return seen(expert_name(layer, number, projection), value, output, shares=False)

        return watched

    required = [parameter.requires_grad for parameter in skeleton.parameters()]
    skeleton.requires_grad_(False).eval()
    with ExitStack() as undo:
        for name, module in described.items():
            if module.expert is None:
                undo.callback(skeleton.get_submodule(name).register_forward_hook(watch(name)).remove)
        for layer in dict.fromkeys(module.expert.layer for module in described.values() if module.expert):
            undo.enter_context(all_for_all(skeleton.get_submodule(layer), watch_experts(layer)))
        try:
            _run(skeleton, found)
        finally:
            for parameter, was in zip(skeleton.parameters(), required, strict=True):
                parameter.requires_grad_(was)
    return tuple(found)


def _run(skeleton: nn.Module, found: list) -> None:
    """With a ready-made mask first: making one looks at numbers in some families, and others take none."""
    token_ids = torch.zeros(1, TOKENS, dtype=torch.long, device="meta")
    ready_made = torch.zeros(1, 1, TOKENS, TOKENS, device="meta")
    with torch.enable_grad():
        for mask in ({"attention_mask": ready_made}, {}):
            found.clear()
            try:
                skeleton(input_ids=token_ids, use_cache=False, **mask)
                return
            except (RuntimeError, NotImplementedError, ValueError, TypeError, IndexError) as error:
                problem = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
    kind = type(skeleton).__name__
    raise BadInput(f"model: the forward pass of {kind} cannot be followed without its weights ({problem})")


def _attention_passed(linears: SequenceOf[LinearModule], layers: int) -> int:
    """Layers whose attention backward passes: those above the lowest tracked module, and its own if it feeds that."""
    lowest = next(each for each in linears if each.tracked).module.name
    layer = next((int(part) for part in lowest.split(".") if part.isdigit()), 0)
    return layers - layer - bool(re.search(MLP_PATTERN, lowest))
