"""The token loss of a batch and its gradient, from the input of the output head on.

The logits of all positions are the largest thing of a pass: positions × vocabulary. So the head is left out of the
model's own forward pass, and applied here to the positions whose next token carries loss, some at a time. What a model
does to its logits after the head (Gemma's soft cap, Cohere's scale) is done here too. Whether that gives the model's
own logits is looked at in its first batch; a model of which it does not is asked for all logits at once.

B sequences, T positions, N positions that predict a token with loss (n of them at once), E width of the head's input,
V vocabulary.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from weakref import WeakKeyDictionary

import numpy as np
import torch
from torch import Tensor, nn
from torch.autograd import forward_ad

from compute.batches import Batch
from compute.devices import device_of
from compute.errors import BadInput
from compute.labels import key_hash, sample_labels

Logits = Callable[[Tensor], Tensor]
LOGITS_AT_ONCE = 2**20  # on a CPU 4 MiB of float32, which its caches hold
LOGITS_AT_ONCE_ON_A_GPU = 2**27


@dataclass(frozen=True)
class Labels:
    """What the loss predicts: the data's own tokens, or labels sampled from the model under `seed`."""

    sampled: bool = False
    seed: int = 0

    @classmethod
    def named(cls, name: str, seed: int) -> Labels:
        if name not in ("sampled", "empirical"):
            raise BadInput(f"curvature.labels: {name!r} is not known; write 'sampled' or 'empirical'")
        return cls(sampled=name == "sampled", seed=seed)


@dataclass(frozen=True)
class Curved:
    """In place of labels: backward starts from H J x instead of the loss's gradient, and so comes to Jᵀ H J x.

    J x is how the logits move along a vector x of parameters, H = diag(p) − p pᵀ the cross-entropy's second derivative
    at them. `derivative` turns a forward pass into the derivative of its result along x.
    """

    derivative: Callable[[Callable[[], Tensor]], Tensor]


DATA = Labels()
LOG = logging.getLogger(__name__)
_leaves_the_head_out: WeakKeyDictionary[nn.Module, bool] = WeakKeyDictionary()


def run_batch(model: nn.Module, batch: Batch, labels: Labels | Curved = DATA) -> Tensor:
    """Forward and backward of one batch: the summed token loss of each sequence in nats, loss_B (float64, on the CPU).

    With sampled labels the backward pass starts from the sampled labels' loss; the loss returned is the data's own.
    Raises BadInput naming the sequence whose loss is not finite.
    """
    moved_BTE = labels.derivative(lambda: _forward(model, batch)[0]) if isinstance(labels, Curved) else None
    with torch.enable_grad():
        input_BTE, logits_of = _forward(model, batch)
    gradient_BTE = torch.zeros_like(input_BTE)
    loss_B = _loss(model, input_BTE, logits_of, batch, labels, gradient_BTE, moved_BTE)
    if input_BTE.requires_grad:  # not where only experts are tracked that no token of the batch reaches
        input_BTE.backward(gradient_BTE)
    return loss_B


def batch_loss(model: nn.Module, batch: Batch) -> Tensor:
    """Forward alone: the summed token loss of each sequence in nats, loss_B. Errors as for `run_batch`."""
    with torch.no_grad():
        input_BTE, logits_of = _forward(model, batch)
        return _loss(model, input_BTE, logits_of, batch, DATA, None)


def _forward(model: nn.Module, batch: Batch) -> tuple[Tensor, Logits]:
    """The head's input at all positions, and the function from rows of it to logits.

    For a model whose head cannot be left out these are its logits themselves, and the identity.
    """
    if not _leaves_the_head_out.get(model, True):
        return _run(model, batch), _same
    with _head_of_first_position(model) as seen:
        own_B1V = _run(model, batch)
    if model not in _leaves_the_head_out:
        _leaves_the_head_out[model] = bool(seen) and _agrees(model, seen[0][:, :1], own_B1V)
        if not _leaves_the_head_out[model]:
            LOG.warning(
                "%s: its logits are not what its head and its configuration tell, so those of all positions of a batch "
                "are made at once, which takes more memory",
                type(model).__name__,
            )
    if not _leaves_the_head_out[model]:
        return _run(model, batch), _same
    return seen[0], lambda input_nE: _logits(model, input_nE)


def _run(model: nn.Module, batch: Batch) -> Tensor:
    # No attention mask: padding stands on the right, where no token looks. With one, attention takes slower ways, and a
    # padded position whose whole window is masked (Gemma 2) becomes NaN, which a weight of 0 does not keep from others.
    return model(input_ids=batch.token_ids_BT, use_cache=False).logits


def _same(logits_nV: Tensor) -> Tensor:
    return logits_nV


@contextmanager
def _head_of_first_position(model: nn.Module) -> Iterator[list[Tensor]]:
    """While open the model computes logits of its first position alone; the list gets the head's whole input."""
    seen: list[Tensor] = []

    def keep(_, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        seen[:] = [inputs[0].to(device_of(head))]
        return (inputs[0][:, :1], *inputs[1:])

    head = model.get_output_embeddings()
    handle = head.register_forward_pre_hook(keep) if head is not None else None
    try:
        yield seen
    finally:
        if handle:
            handle.remove()


@torch.no_grad()
def _agrees(model: nn.Module, input_B1E: Tensor, own_B1V: Tensor) -> bool:
    if own_B1V.shape[:2] != input_B1E.shape[:2]:
        return False
    logits_BV = _logits(model, input_B1E[:, 0]).to(own_B1V.device)
    eps = torch.finfo(own_B1V.dtype).eps
    tolerance = (100 if eps < 1e-4 else 4) * eps * float(own_B1V.abs().max())  # half precisions are coarse already
    return bool((logits_BV - own_B1V[:, 0]).abs().max() <= tolerance)


def _logits(model: nn.Module, input_nE: Tensor) -> Tensor:
    """The head, and what models do to its output, by the names that their configurations have for it."""
    logits_nV = model.get_output_embeddings()(input_nE)
    config = model.config.get_text_config()
    if scale := getattr(config, "logit_scale", None):
        logits_nV = logits_nV * scale
    if divisor := getattr(config, "logits_scaling", None):
        logits_nV = logits_nV / divisor
    if cap := getattr(config, "final_logit_softcapping", None) or getattr(config, "logits_soft_cap", None):
        logits_nV = torch.tanh(logits_nV / cap) * cap
    return logits_nV


def _loss(
    model: nn.Module,
    input_BTE: Tensor,
    logits_of: Logits,
    batch: Batch,
    labels: Labels | Curved,
    gradient_BTE: Tensor | None,
    moved_BTE: Tensor | None = None,
) -> Tensor:
    """Summed cross-entropy per sequence.

    Its gradient is written into `gradient_BTE` (zeros) where that is given; H J x in its place where the input moves.
    """
    batch = batch.to(input_BTE.device)
    # The logits at position t−1 predict the token at t.
    row_N, target_N = batch.target_BT.nonzero(as_tuple=True)
    token_N = batch.token_ids_BT[row_N, target_N]
    loss_N = torch.empty(len(row_N), dtype=torch.float64, device=input_BTE.device)
    for n in _chunks(model, len(row_N), input_BTE.device):
        input_nE = input_BTE[row_N[n], target_N[n] - 1].detach().requires_grad_(gradient_BTE is not None)
        with torch.set_grad_enabled(gradient_BTE is not None):
            logits_nV = logits_of(input_nE)
        p_nV = logits_nV.detach().to(torch.promote_types(logits_nV.dtype, torch.float32), copy=True)
        loss_N[n] = _softmax_(p_nV, token_N[n])
        if gradient_BTE is None:
            continue
        if moved_BTE is not None:
            p_nV = _curved(p_nV, _moved(logits_of, input_nE, moved_BTE[row_N[n], target_N[n] - 1]))
        else:
            label_n = _sampled(p_nV, batch, row_N[n], target_N[n], labels.seed) if labels.sampled else token_N[n]
            p_nV[torch.arange(len(label_n), device=p_nV.device), label_n] -= 1
        (gradient_nE,) = torch.autograd.grad(logits_nV, input_nE, p_nV.to(logits_nV.dtype))
        gradient_BTE[row_N[n], target_N[n] - 1] = gradient_nE
    loss_B = torch.zeros(len(batch.keys_B), dtype=torch.float64, device=input_BTE.device).index_add_(0, row_N, loss_N)
    _check_finite(loss_B, batch)
    return loss_B.cpu()


def _moved(logits_of: Logits, input_nE: Tensor, moved_nE: Tensor) -> Tensor:
    """How the logits move with the head's input."""
    with torch.no_grad(), forward_ad.dual_level():
        return forward_ad.unpack_dual(logits_of(forward_ad.make_dual(input_nE.detach(), moved_nE))).tangent.clone()


def _curved(p_nV: Tensor, moved_nV: Tensor) -> Tensor:
    """(diag(p) − p pᵀ) times how the logits move."""
    moved_nV = moved_nV.to(p_nV.dtype)
    return p_nV * (moved_nV - (p_nV * moved_nV).sum(-1, keepdim=True))


def _chunks(model: nn.Module, rows: int, device: torch.device) -> Iterator[slice]:
    elements = LOGITS_AT_ONCE if device.type == "cpu" else LOGITS_AT_ONCE_ON_A_GPU
    at_once = max(16, elements // model.get_input_embeddings().weight.shape[0])
    return (slice(start, start + at_once) for start in range(0, rows, at_once))


def _softmax_(logits_nV: Tensor, token_n: Tensor) -> Tensor:
    """Turns logits into probabilities in place; −log of the token's own is returned, in float64."""
    logits_nV -= logits_nV.amax(-1, keepdim=True)
    own_n = logits_nV.gather(1, token_n[:, None]).squeeze(1).double()
    total_n1 = logits_nV.exp_().sum(-1, keepdim=True)
    logits_nV /= total_n1
    return total_n1.squeeze(1).double().log_() - own_n


def _sampled(p_nV: Tensor, batch: Batch, row_n: Tensor, target_n: Tensor, seed: int) -> Tensor:
    hashes_B = np.array([key_hash(key) for key in batch.keys_B], dtype=np.uint64)
    return sample_labels(p_nV, hashes_B[row_n.cpu().numpy()], target_n.cpu().numpy(), seed)


def _check_finite(loss_B: Tensor, batch: Batch) -> None:
    if not torch.isfinite(loss_B).all():
        row = int((~torch.isfinite(loss_B)).nonzero()[0])
        raise BadInput(
            f"{batch.keys_B[row]}: the model's loss on it is {loss_B[row].item()}; "
            "check that the checkpoint's weights are finite, or load it in float32"
        )
