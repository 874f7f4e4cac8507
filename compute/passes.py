"""One forward pass and one activation-gradient backward pass, with every tracked module's inputs and output gradients.

Weights are frozen, so no weight gradient is ever formed, and the graph begins at the output of the lowest tracked
module, so nothing below it is traversed backwards. What a stage needs from a module is computed as soon as backward
reaches it, and its activations are let go.

B sequences, T positions, V vocabulary, I inputs (without the bias column), O outputs of a module.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from collections.abc import Sequence as SequenceOf
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from compute.batches import Batch, Sequence, make_batches
from compute.errors import BadInput
from compute.labels import key_hash, sample_labels
from compute.tracked_modules import TrackedModule

Consume = Callable[[TrackedModule, Tensor, Tensor], None]
"""Called per module and batch with a_BTI and g_BTO; g is zero wherever a position carries no gradient."""

LOGITS_AT_ONCE = 2**28  # a batch's logits: 1 GiB in float32, and as much again for their gradient
ROWS_AT_ONCE = 1024  # rows of logits turned into probabilities at a time


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


DATA = Labels()


def accumulation_dtype(model: nn.Module) -> torch.dtype:
    """float32 sums for every model but a float64 one, whose sums stay float64."""
    return torch.float64 if next(model.parameters()).dtype == torch.float64 else torch.float32


def placement(model: nn.Module) -> tuple[torch.device, torch.dtype]:
    """Where a model's factors belong: its device, in the dtype of its sums."""
    return next(model.parameters()).device, accumulation_dtype(model)


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


def batches_for(model: nn.Module, sequences: SequenceOf[Sequence], token_budget: int) -> Iterator[Batch]:
    """`make_batches` on the model's device, with smaller batches for a large vocabulary: logits of tokens × vocabulary
    and their gradient are what fills memory first."""
    vocabulary = model.get_input_embeddings().weight.shape[0]
    longest = max((len(sequence) for sequence in sequences), default=1)
    budget = min(token_budget, max(longest, LOGITS_AT_ONCE // vocabulary))
    return make_batches(sequences, token_budget=budget, device=next(model.parameters()).device)


def run_batch(model: nn.Module, batch: Batch, labels: Labels = DATA) -> Tensor:
    """Forward and backward of one batch: the summed token loss of each sequence in nats, loss_B (float64, on the CPU).

    With sampled labels the backward pass starts from the sampled labels' loss; the loss returned is the data's own.
    Raises BadInput naming the sequence whose loss is not finite.
    """
    with torch.enable_grad():
        logits_BTV = _logits(model, batch)
    logits_gradient_BTV = torch.zeros_like(logits_BTV)
    loss_B = _loss(logits_BTV, batch, labels, logits_gradient_BTV)
    logits_BTV.backward(logits_gradient_BTV)
    return loss_B


def batch_loss(model: nn.Module, batch: Batch) -> Tensor:
    """Forward alone: the summed token loss of each sequence in nats, loss_B. Errors as for `run_batch`."""
    with torch.no_grad():
        return _loss(_logits(model, batch), batch, DATA)


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


def _logits(model: nn.Module, batch: Batch) -> Tensor:
    return model(input_ids=batch.token_ids_BT, attention_mask=batch.attention_BT, use_cache=False).logits


@torch.no_grad()
def _loss(logits_BTV: Tensor, batch: Batch, labels: Labels, gradient_BTV: Tensor | None = None) -> Tensor:
    """Summed cross-entropy per sequence, in chunks of the rows that carry loss.

    Where `gradient_BTV` (zeros) is given, the loss's gradient, softmax − one-hot, is written into it.
    """
    # The logits at position t−1 predict the token at t.
    row_N, target_N = batch.target_BT.nonzero(as_tuple=True)
    loss_B = torch.zeros(len(batch.keys_B), dtype=torch.float64, device=logits_BTV.device)
    for row_n, target_n in zip(row_N.split(ROWS_AT_ONCE), target_N.split(ROWS_AT_ONCE), strict=True):
        token_n = batch.token_ids_BT[row_n, target_n]
        logits_nV = logits_BTV[row_n, target_n - 1]
        log_p_nV = logits_nV.to(torch.promote_types(logits_nV.dtype, torch.float32)).log_softmax(-1)
        loss_B.index_add_(0, row_n, -log_p_nV.gather(1, token_n[:, None]).squeeze(1).double())
        if gradient_BTV is not None:
            label_n = _sampled(log_p_nV, batch, row_n, target_n, labels.seed) if labels.sampled else token_n
            p_nV = log_p_nV.exp_()
            p_nV[torch.arange(len(label_n), device=p_nV.device), label_n] -= 1
            gradient_BTV[row_n, target_n - 1] = p_nV.to(gradient_BTV.dtype)
    _check_finite(loss_B, batch)
    return loss_B.cpu()


def _sampled(log_p_nV: Tensor, batch: Batch, row_n: Tensor, target_n: Tensor, seed: int) -> Tensor:
    hashes_B = np.array([key_hash(key) for key in batch.keys_B], dtype=np.uint64)
    return sample_labels(log_p_nV, hashes_B[row_n.cpu().numpy()], target_n.cpu().numpy(), seed)


def _check_finite(loss_B: Tensor, batch: Batch) -> None:
    if not torch.isfinite(loss_B).all():
        row = int((~torch.isfinite(loss_B)).nonzero()[0])
        raise BadInput(
            f"{batch.keys_B[row]}: the model's loss on it is {loss_B[row].item()}; "
            "check that the checkpoint's weights are finite, or load it in float32"
        )
