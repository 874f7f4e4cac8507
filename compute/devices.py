"""Where a model computes that accelerate spread over devices, and weights that wait elsewhere until they are used.

A device map (transformers' `device_map`) puts each layer on a device. What flows through the model is moved from one to
the next by accelerate's hooks; factors and sums of a module stay where the module computes, and results of a batch come
together where its token ids went in. Weights that no device has room for wait in the CPU's memory or in the
checkpoint's files, and are brought for a module's forward. Autograd would keep them until backward, all of them at
once; instead they are brought a second time (`brought_again`).
"""

from __future__ import annotations

from collections.abc import Iterator
from collections.abc import Sequence as SequenceOf
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass

import torch
from accelerate.hooks import AlignDevicesHook
from torch import Tensor, nn

from compute.tracked_modules import TrackedModule


def input_device(model: nn.Module) -> torch.device:
    """Where token ids go in, and where results of a batch come together."""
    return device_of(model.get_input_embeddings())


def module_device(model: nn.Module, module: TrackedModule) -> torch.device:
    """Where a tracked module computes."""
    return device_of(model.get_submodule(module.expert.layer if module.expert else module.name))


def device_of(module: nn.Module) -> torch.device:
    """Where a module computes, by its hook where it has one and by its weights otherwise."""
    for hook in _hooks(module):
        if hook.execution_device is not None:
            device = hook.execution_device
            return torch.device("cuda", device) if isinstance(device, int) else torch.device(device)
    return next(module.parameters()).device


def free_memory(device: torch.device) -> int:
    """Bytes of a GPU that nothing has taken, with those that PyTorch keeps and does not use."""
    kept = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    return torch.cuda.mem_get_info(device)[0] + kept


def summed(of_modules: SequenceOf[Tensor]) -> Tensor:
    """The sum of what modules on several devices have, on the first one's."""
    return torch.stack([each.to(of_modules[0].device) for each in of_modules]).sum()


def weights(model: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """Every weight by name; of those that wait elsewhere one at a time."""
    waiting = {f"{name}.{weight}": (hook, weight) for name, hook in _bringing(model) for weight in _own(model, name)}
    for name, parameter in model.named_parameters():
        if parameter.device.type != "meta":
            yield name, parameter
        else:
            hook, weight = waiting[name]
            yield name, hook.weights_map[weight]


@dataclass(frozen=True)
class _Brought:
    """A weight, or a view of it, that a node of the graph will need again."""

    hook: AlignDevicesHook
    weight: str
    dtype: torch.dtype
    device: torch.device
    shape: torch.Size
    stride: tuple[int, ...]
    offset: int

    def again(self) -> Tensor:
        weight = self.hook.weights_map[self.weight].to(self.device, self.dtype).contiguous()
        return weight.as_strided(self.shape, self.stride, self.offset)


@contextmanager
def brought_again(model: nn.Module) -> Iterator[None]:
    """While open, weights that wait elsewhere are not kept for backward, but brought when it needs them."""
    hooks = list(_bringing(model))
    if not hooks:
        yield
        return
    there: dict[int, tuple[AlignDevicesHook, str]] = {}  # by address, while a module's forward runs

    def pack(saved: Tensor) -> Tensor | _Brought:
        found = there.get(saved.untyped_storage().data_ptr())
        if found is None:
            return saved
        return _Brought(*found, saved.dtype, saved.device, saved.shape, saved.stride(), saved.storage_offset())

    def unpack(packed: Tensor | _Brought) -> Tensor:
        return packed.again() if isinstance(packed, _Brought) else packed

    with ExitStack() as undo:
        for _, hook in hooks:
            undo.enter_context(_noted(hook, there))
        undo.enter_context(torch.autograd.graph.saved_tensors_hooks(pack, unpack))
        yield


@contextmanager
def _noted(hook: AlignDevicesHook, there: dict[int, tuple[AlignDevicesHook, str]]) -> Iterator[None]:
    """While open, what the hook brings for its module is in `there`."""
    bring, let_go = hook.pre_forward, hook.post_forward

    def pre_forward(module: nn.Module, *args, **kwargs):
        found = bring(module, *args, **kwargs)
        for name, parameter in module.named_parameters(recurse=False):
            there[parameter.untyped_storage().data_ptr()] = (hook, name)
        return found

    def post_forward(module: nn.Module, output):
        for parameter in module.parameters(recurse=False):
            there.pop(parameter.untyped_storage().data_ptr(), None)
        return let_go(module, output)

    hook.pre_forward, hook.post_forward = pre_forward, post_forward
    try:
        yield
    finally:
        del hook.pre_forward, hook.post_forward  # the class's own are there again


def _bringing(model: nn.Module) -> Iterator[tuple[str, AlignDevicesHook]]:
    """The hooks that bring a module's weights, by the module's name."""
    for name, module in model.named_modules():
        for hook in _hooks(module):
            if hook.offload and any(True for _ in module.parameters(recurse=False)):
                yield name, hook


def _own(model: nn.Module, name: str) -> Iterator[str]:
    return (weight for weight, _ in model.get_submodule(name).named_parameters(recurse=False))


def _hooks(module: nn.Module) -> Iterator[AlignDevicesHook]:
    hook = getattr(module, "_hf_hook", None)
    for each in getattr(hook, "hooks", (hook,)):
        if isinstance(each, AlignDevicesHook):
            yield each
