"""Devices that this machine does not have, played on its CPU: every tensor is told to be somewhere, and what happens
between tensors that are not in one place is an error, as it is between two GPUs.

Seen are calls from Python, in hooks of backward too; what autograd does by itself is not.
"""

from __future__ import annotations

import torch
from accelerate.hooks import AlignDevicesHook, add_hook_to_module
from torch import nn
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_flatten, tree_map
from torch.utils.weak import WeakTensorKeyDictionary

CPU = torch.device("cpu")
DEVICE_OF = torch.Tensor.device.__get__
MADE_ANEW = {
    getattr(torch, name) for name in ("tensor", "as_tensor", "zeros", "ones", "empty", "full", "arange", "eye", "randn")
}
MOVING = {torch.Tensor.to, torch.Tensor.cpu, torch.Tensor.new_zeros, torch.Tensor.new_tensor, torch.Tensor.new_empty}


class Places(TorchFunctionMode):
    """While open, tensors have the places that they were put in; `met` counts calls that saw more than one tensor."""

    def __init__(self) -> None:
        super().__init__()
        self.places, self.met, self.moves = WeakTensorKeyDictionary(), 0, 0

    def put(self, tensor: torch.Tensor, place: torch.device) -> torch.Tensor:
        self.places[tensor] = place
        return tensor

    def __torch_function__(self, func, types, args=(), kwargs=None):
        kwargs = dict(kwargs or {})
        if func == DEVICE_OF:
            return self.places.get(args[0], CPU)
        if func is torch.device:
            return func(*args, **kwargs)
        if func is torch.Tensor.register_hook:
            return func(args[0], self._seeing(args[1], self.places.get(args[0], CPU)))
        found = [each for each in tree_flatten((args, kwargs))[0] if isinstance(each, torch.Tensor)]
        known = {self.places[each] for each in found if each in self.places and each.ndim}
        wanted = self._wanted(func, args, kwargs)
        if wanted is None:
            self.met += len(found) > 1
            indices_on_cpu = func in (torch.Tensor.__getitem__, torch.Tensor.__setitem__) and CPU in known
            if len(known) > 1 and not indices_on_cpu:
                raise RuntimeError(f"{getattr(func, '__name__', func)}: tensors on {sorted(map(str, known))}")
        args, kwargs = tree_map(lambda each: CPU if isinstance(each, torch.device) else each, (args, kwargs))
        out = func(*args, **kwargs)
        place = wanted or (known - {CPU} or known or {None}).copy().pop()
        if place is not None:
            for each in tree_flatten(out)[0]:
                if isinstance(each, torch.Tensor):
                    if any(each is other for other in found) and self.places.get(each, place) != place:
                        each = out = each.view_as(each)  # moved, although it is the same memory here
                    self.put(each, place)
        return out

    def _seeing(self, hook, place: torch.device):
        """The hook, whose calls autograd would hide, with a gradient where its tensor is."""

        def seen(gradient: torch.Tensor):
            with self:
                return hook(self.put(gradient, place))

        return seen

    def _wanted(self, func, args, kwargs) -> torch.device | None:
        """The place that a call names, or that what it makes has anyway."""
        if func is torch.Tensor.cpu or func is torch.Tensor.numpy:
            return CPU
        named = [each for each in (*args[1:], *kwargs.values()) if isinstance(each, torch.device)]
        if named and (func in MOVING or func in MADE_ANEW):
            self.moves += func is torch.Tensor.to
            return named[0]
        if func in MADE_ANEW and not any(isinstance(each, torch.Tensor) for each in args):
            return CPU
        return None


class _Placing(AlignDevicesHook):
    """accelerate's own hook, for weights that have been put where they belong."""

    def init_hook(self, module: nn.Module) -> nn.Module:
        return module


def spread_over(model: nn.Module, places: Places, of_module: dict[str, torch.device]) -> None:
    """Puts the modules with these names, and what is in them, in their places, with the hooks of accelerate's device
    map: each moves its inputs, and the model brings its output back."""
    for name, module in model.named_modules():
        place = next((each for prefix, each in of_module.items() if f"{name}.".startswith(f"{prefix}.")), None)
        if place is None:
            continue
        for tensor in (*module.parameters(recurse=False), *module.buffers(recurse=False)):
            places.put(tensor, place)
        add_hook_to_module(module, _Placing(execution_device=place))
    add_hook_to_module(model, _Placing(io_same_device=True))
