"""The yardstick and the floor: plain passes over the documents, in padded batches."""

from __future__ import annotations

from collections.abc import Iterator
from collections.abc import Sequence as SequenceOf
from contextlib import nullcontext

from torch import Tensor, nn
from torch.nn import functional

from benchmarks.engine.contender import Contender
from benchmarks.engine.padding import IGNORED, pad
from compute.batches import Sequence
from compute.kept_memory import memory_kept
from compute.tracked_modules import select_modules


class PlainPasses(Contender):
    """Passes that compute no influence."""

    def training_pass(self, precision: str = "float32") -> None:
        """Forward and full backward with every weight's gradient, without an optimizer's step."""
        model = self.model(precision).requires_grad_(True)
        with self.timed("training pass"):
            for batch in padded_batches(self.documents, self.setting.batch):
                summed_loss(model, batch).backward()
                model.zero_grad(set_to_none=True)
        model.requires_grad_(False)

    def floor(self, precision: str = "float32", kept: bool = False) -> None:
        """Frozen weights, backward down to the lowest tracked module: what any method of this kind has to do.

        With `kept` freed memory stays with the process, as in the engine's own passes.
        """
        model = self.model(precision)
        lowest = model.get_submodule(select_modules(model, "mlp")[0].name)
        handle = lowest.register_forward_hook(lambda _, __, output: output.requires_grad_(True))
        with self.timed("floor"), memory_kept(model.device) if kept else nullcontext():
            for batch in padded_batches(self.documents, self.setting.batch):
                summed_loss(model, batch).backward()
        handle.remove()


def summed_loss(model: nn.Module, batch: dict[str, Tensor]) -> Tensor:
    logits_BTV = model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"], use_cache=False).logits
    logits_NV, targets_N = logits_BTV[:, :-1].flatten(0, 1), batch["labels"][:, 1:].flatten()
    return functional.cross_entropy(logits_NV, targets_N, reduction="sum", ignore_index=IGNORED)


def padded_batches(documents: SequenceOf[Sequence], size: int) -> Iterator[dict[str, Tensor]]:
    for start in range(0, len(documents), size):
        yield pad(documents[start : start + size])
