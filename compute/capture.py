"""What a forward and an activation-gradient backward pass show of every tracked module: inputs and output gradients.

Weights are frozen, so no weight gradient is ever formed, and the graph begins at the output of the lowest tracked
module, so nothing below it is traversed backwards. What a stage needs from a module is computed as soon as backward
reaches it, and its activations are let go.

Layers that a model is to compute again in backward (gradient checkpointing) are, although it is in eval mode, where
transformers does not: what was captured the first time is not a second time.

B sequences, T positions, I inputs (without the bias column), O outputs of a module.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from collections.abc import Sequence as SequenceOf
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint
from transformers.modeling_layers import GradientCheckpointingLayer

from compute.batches import Batch
from compute.errors import BadInput
from compute.experts import RoutedTokens, Watch, one_by_one
from compute.tracked_modules import TrackedModule

Consume = Callable[..., None]
"""Called per module and batch with a_BTI and g_BTO; g is zero wherever a position carries no gradient. For a routed
expert a fourth argument is the batch of the tokens that reached it, which has columns for them alone."""


@contextmanager
def captured(
    model: nn.Module, modules: Iterable[TrackedModule], consume: Consume, current: SequenceOf[Batch] = ()
) -> Iterator[None]:
    """While open, each backward pass through `model` calls `consume` once per tracked module, last module first.

    `current` holds the batch that is run; it is asked for routed experts alone. One that no token reaches is not
    called for.
    """
    shape_BT: list[int] = []

    def keep_shape(_, __, options: dict) -> None:
        shape_BT[:] = options["input_ids"].shape

    was_training, required_grad = model.training, [parameter.requires_grad for parameter in model.parameters()]
    is_again = [False]
    with ExitStack() as undo:
        undo.callback(model.register_forward_pre_hook(keep_shape, with_kwargs=True).remove)
        for module in modules:
            if module.expert is None:
                hook = _forward_hook(module, consume, shape_BT, is_again)
                undo.callback(model.get_submodule(module.name).register_forward_hook(hook).remove)
        for layer, watch in _watched_experts(modules, consume, is_again).items():
            undo.enter_context(one_by_one(model.get_submodule(layer), current, watch))
        model.eval().requires_grad_(False)
        undo.enter_context(_computed_again(model, is_again))
        try:
            yield
        finally:
            model.train(was_training)
            for parameter, required in zip(model.parameters(), required_grad, strict=True):
                parameter.requires_grad_(required)


@contextmanager
def _computed_again(model: nn.Module, is_again: list[bool]) -> Iterator[None]:
    """While open, the layers of which the model keeps no activations keep none, and `is_again` says when one of them is
    computed a second time. They alone are in training mode, and while they compute nothing is, so that dropout is off.
    """
    usual: dict[nn.Module, Callable[..., Any]] = {}
    for layer in model.modules():
        if isinstance(layer, GradientCheckpointingLayer) and layer.gradient_checkpointing:
            usual[layer] = layer._gradient_checkpointing_func
            layer.training, layer._gradient_checkpointing_func = True, partial(_checkpointed, layer, is_again)
    try:
        yield
    finally:
        for layer, function in usual.items():
            layer._gradient_checkpointing_func = function


def _checkpointed(layer: nn.Module, is_again: list[bool], forward: Callable[..., Any], *inputs) -> Any:
    runs: list[int] = []

    def run(*inputs):
        before, is_again[0], layer.training = is_again[0], bool(runs), False
        runs.append(1)
        try:
            return forward(*inputs)
        finally:
            is_again[0], layer.training = before, True

    # Not reentrant: the graph begins within the first layer, whose inputs have no gradient.
    return checkpoint(run, *inputs, use_reentrant=False, preserve_rng_state=False)


def _forward_hook(module: TrackedModule, consume: Consume, shape_BT: list[int], is_again: list[bool]):
    def hook(_, inputs: tuple[Tensor, ...], output: Tensor) -> Tensor:
        if is_again[0]:
            return _with_gradient(output)
        activation = inputs[0].detach().to(output.device)

        def hand_over(gradient: Tensor) -> None:
            consume(module, *_by_document(module, activation, gradient, shape_BT))

        return _with_gradient(output, hand_over)

    return hook


def _watched_experts(modules: Iterable[TrackedModule], consume: Consume, is_again: list[bool]) -> dict[str, Watch]:
    """What each experts module with tracked experts is to call, by its name."""
    tracked: dict[str, dict[tuple[int, str], TrackedModule]] = {}
    for module in modules:
        if module.expert:
            tracked.setdefault(module.expert.layer, {})[module.expert.number, module.expert.projection] = module
    return {layer: _watch(of_layer, consume, is_again) for layer, of_layer in tracked.items()}


def _watch(tracked: dict[tuple[int, str], TrackedModule], consume: Consume, is_again: list[bool]) -> Watch:
    def watch(number: int, projection: str, input_nI: Tensor, output_nO: Tensor, tokens: RoutedTokens) -> Tensor:
        if (module := tracked.get((number, projection))) is None:
            return output_nO
        if is_again[0]:
            return _with_gradient(output_nO)
        activation_nI = input_nI.detach()

        def hand_over(gradient_nO: Tensor) -> None:
            consume(module, tokens.by_document(activation_nI), tokens.by_document(gradient_nO), tokens.batch)

        return _with_gradient(output_nO, hand_over)

    return watch


def _with_gradient(output: Tensor, hand_over: Callable[[Tensor], None] | None = None) -> Tensor:
    """A module's output, whose gradient is handed over in backward; the graph begins at it where it has none yet."""
    if not torch.is_grad_enabled():
        return output
    if not output.requires_grad:
        # A copy, since the model may go on to change its tensor in place, which a leaf does not allow.
        output = output.detach().requires_grad_(True).clone()
    if hand_over:
        output.register_hook(hand_over)
    return output


def _by_document(
    module: TrackedModule, activation: Tensor, gradient: Tensor, shape_BT: list[int]
) -> tuple[Tensor, Tensor]:
    """a_BTI and g_BTO, also from a module whose model flattens its tokens first (OPT).

    Raises BadInput for a module that does not see every token of every document.
    """
    if gradient.ndim == 2 and len(gradient) == shape_BT[0] * shape_BT[1]:
        return activation.view(*shape_BT, -1), gradient.view(*shape_BT, -1)
    if gradient.ndim != 3:
        raise BadInput(
            f"curvature.modules: {module.name} does not see its tokens as batch × positions × features; "
            "leave it out of the patterns"
        )
    return activation, gradient
