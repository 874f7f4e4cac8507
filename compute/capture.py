"""What a forward and an activation-gradient backward pass show of every tracked module: inputs and output gradients.

Weights are frozen, so no weight gradient is ever formed, and the graph begins at the output of the lowest tracked
module, so nothing below it is traversed backwards. What a stage needs from a module is computed as soon as backward
reaches it, and its activations are let go.

B sequences, T positions, I inputs (without the bias column), O outputs of a module.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from compute.errors import BadInput
from compute.tracked_modules import TrackedModule

Consume = Callable[[TrackedModule, Tensor, Tensor], None]
"""Called per module and batch with a_BTI and g_BTO; g is zero wherever a position carries no gradient."""


@contextmanager
def captured(model: nn.Module, modules: Iterable[TrackedModule], consume: Consume) -> Iterator[None]:
    """While open, each backward pass through `model` calls `consume` once per tracked module, last module first."""
    shape_BT: list[int] = []

    def keep_shape(_, __, options: dict) -> None:
        shape_BT[:] = options["input_ids"].shape

    handles = [model.register_forward_pre_hook(keep_shape, with_kwargs=True)]
    for module in modules:
        hook = _forward_hook(module, consume, shape_BT)
        handles.append(model.get_submodule(module.name).register_forward_hook(hook))
    was_training, required_grad = model.training, [parameter.requires_grad for parameter in model.parameters()]
    model.eval().requires_grad_(False)
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
        model.train(was_training)
        for parameter, required in zip(model.parameters(), required_grad, strict=True):
            parameter.requires_grad_(required)


def _forward_hook(module: TrackedModule, consume: Consume, shape_BT: list[int]):
    def hook(_, inputs: tuple[Tensor, ...], output: Tensor) -> Tensor | None:
        if not torch.is_grad_enabled():
            return None
        begins_graph = not output.requires_grad
        if begins_graph:
            # A copy, since the model may go on to change its tensor in place, which a leaf does not allow.
            leaf = output.detach().requires_grad_(True)
            output = leaf.clone()
        activation = inputs[0].detach()
        output.register_hook(lambda gradient: consume(module, *_by_document(module, activation, gradient, shape_BT)))
        return output if begins_graph else None

    return hook


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
            f"curvature.modules: {module.name} does not see its tokens as batch × positions × features, "
            "as routed experts do not; leave it out of the patterns"
        )
    return activation, gradient
