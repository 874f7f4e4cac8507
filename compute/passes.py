"""Passes over many sequences: batch by batch forward and backward, and what to do where a batch does not fit in memory.

A batch that is out of memory is cut in two and done again, and so are all batches after it: the token budget is halved,
for later passes too that are handed the same one. Where a sequence does not fit by itself, it is told whether the model
or what its gradients are consumed by needs more.
Backward reaches a batch's modules one by one, so some of them may have been consumed by then; these are left out when
its halves are done, so that every sequence is consumed once by every module and results stay the same to rounding.
Work outside of the batches is done in parts that are halved likewise (`Parts`).
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable, Iterator
from collections.abc import Sequence as SequenceOf
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import TypeVar

import torch
from torch import Tensor, nn

from compute.batches import Batch, Sequence, check_sequences, pad, plan_batches
from compute.capture import captured
from compute.devices import brought_again, input_device, module_device
from compute.errors import BadInput
from compute.kept_memory import memory_kept
from compute.process_wide import WhileAny
from compute.token_loss import DATA, Labels, batch_loss, run_batch
from compute.tracked_modules import TrackedModule

Consume = Callable[[Batch, TrackedModule, Tensor, Tensor], None]
"""Called per batch and module with a_BTI and g_BTO; g is zero wherever a position carries no gradient. For a routed
expert the batch holds the tokens that reach it alone, and where none does there is no call. It may raise
torch.OutOfMemoryError before it has changed anything, and not after."""
OnBatch = Callable[[int, int], None]
"""Called after each batch with the documents and the tokens (without padding) that it held."""
LOG = logging.getLogger(__name__)
Result = TypeVar("Result")
FIT_IN_PASSES = "give curvature.memory_mib, or less of it, so that modules are fitted in more passes"
REDUCED = ("allow_bf16_reduced_precision_reduction", "allow_fp16_reduced_precision_reduction")


@dataclass
class TokenBudget:
    """Padded tokens of a batch: as they are `given`, and as many as fit, as far as passes that share it have found."""

    given: int

    def __post_init__(self) -> None:
        self.fitting = self.given


@dataclass
class _Plan:
    """The batches to come, as indices, each with the modules that have consumed it already."""

    sequences: SequenceOf[Sequence]
    budget: TokenBudget
    device: torch.device
    to_come: deque[tuple[list[int], frozenset[str]]] = field(default_factory=deque)

    def __post_init__(self) -> None:
        check_sequences(self.sequences, self.budget.given)
        self._lay_out(range(len(self.sequences)))

    def _lay_out(self, indices: SequenceOf[int]) -> None:
        lengths = [len(self.sequences[index]) for index in indices]
        for batch in plan_batches(lengths, self.budget.fitting):
            self.to_come.append(([indices[place] for place in batch], frozenset()))

    def halve(self, index_B: list[int], consumed: frozenset[str]) -> None:
        """Puts the two halves of a batch before all others; those that nothing has consumed are laid out anew."""
        if len(index_B) == 1:
            raise too_large(self.sequences[index_B[0]])
        begun = [each for each in self.to_come if each[1]]
        untouched = [index for indices, already in self.to_come if not already for index in indices]
        middle = len(index_B) // 2
        self.to_come = deque([(index_B[:middle], consumed), (index_B[middle:], consumed), *begun])
        # Half of what was tried, which may be far below the budget.
        self.budget.fitting = len(index_B) * max(len(self.sequences[index]) for index in index_B) // 2
        self._lay_out(untouched)
        LOG.warning("out of memory: the token budget is halved to %d, and the batch done again", self.budget.fitting)


def backward_passes(
    model: nn.Module,
    modules: SequenceOf[TrackedModule],
    sequences: SequenceOf[Sequence],
    consume: Consume,
    *,
    token_budget: int | TokenBudget,
    labels: Labels = DATA,
    on_batch: OnBatch | None = None,
    forget: Callable[[], None] = lambda: None,
    remedy: str = "give less options.memory_mib",
) -> Iterator[tuple[Batch, Tensor]]:
    """Each batch when it is done, longest sequences first, with the summed loss of its sequences in nats, loss_B.

    `consume` has then seen the sequences of the batch once per module that their tokens reach. Raises BadInput naming
    a sequence without a target, longer than the budget, with a loss that is not finite, or that does not fit in memory
    by itself, and naming a module that takes no part in the forward pass, or more than one. `forget` is called when a
    batch is over, done or not, so that what `consume` keeps of it is let go. `remedy` says what to do where `consume`
    runs out of memory with one sequence.
    """
    budget = token_budget if isinstance(token_budget, TokenBudget) else TokenBudget(token_budget)
    plan = _Plan(sequences, budget, input_device(model))
    current: list[Batch] = []
    consumed: set[str] = set()
    met: set[str] = set()  # in this attempt at the batch
    consuming: list[str] = []  # the module whose consumer has not come to its end

    def consume_once(
        module: TrackedModule, activation_BTI: Tensor, gradient_BTO: Tensor, seen: Batch | None = None
    ) -> None:
        if module.name in met:
            name = f"curvature.modules: {module.name}"
            raise BadInput(f"{name} is used more than once in a forward pass; leave it out of the patterns")
        met.add(module.name)
        if module.name not in consumed:
            consuming[:] = [module.name]
            consume(current[0] if seen is None else seen, module, activation_BTI, gradient_BTO)
            consuming.clear()
            consumed.add(module.name)

    with (
        memory_kept(plan.device),
        sums_in_float32(),
        captured(model, modules, consume_once, current),
        brought_again(model),
    ):
        while plan.to_come:
            index_B, already = plan.to_come.popleft()
            met.clear()
            consumed.clear()
            consumed.update(already)
            consuming.clear()
            loss_B = None
            try:
                current[:] = [pad(sequences, index_B, plan.device)]
                loss_B = run_batch(model, current[0], labels)
            except torch.OutOfMemoryError:
                pass  # the error's traceback holds the graph: memory is let go after it
            forget()
            if loss_B is None:
                _let_go(plan.device)
                if consuming and len(index_B) == 1:
                    raise _beyond_consumer(consuming[0], sequences[index_B[0]], remedy)
                plan.halve(index_B, frozenset(consumed))
                continue
            _refuse_bypassed(modules, met)
            yield current[0], loss_B
            if on_batch:
                on_batch(len(index_B), current[0].tokens)


def forward_passes(
    model: nn.Module, sequences: SequenceOf[Sequence], *, token_budget: int
) -> Iterator[tuple[Batch, Tensor]]:
    """The same without backward: each batch with its loss_B."""
    plan = _Plan(sequences, TokenBudget(token_budget), input_device(model))
    with memory_kept(plan.device), sums_in_float32():
        while plan.to_come:
            index_B, _ = plan.to_come.popleft()
            loss_B = None
            try:
                batch = pad(sequences, index_B, plan.device)
                loss_B = batch_loss(model, batch)
            except torch.OutOfMemoryError:
                pass
            if loss_B is None:
                _let_go(plan.device)
                plan.halve(index_B, frozenset())
                continue
            yield batch, loss_B


@dataclass
class Parts:
    """Work outside of the batches: `at_once` of something at a time, and half as many after memory has run out. `what`
    says in the plural what they are."""

    at_once: int
    what: str

    def of(self, work: Callable[[slice], Result], count: int, device: torch.device) -> Iterator[Result]:
        """What `work` makes of 0 … `count`, in order. Raises torch.OutOfMemoryError where one alone does not fit."""
        start = 0
        while start < count:
            part, found = slice(start, min(start + self.at_once, count)), None
            try:
                found = work(part)
            except torch.OutOfMemoryError:
                if part.stop - start == 1:
                    raise
            if found is None:
                _let_go(device)
                self.at_once = (part.stop - start) // 2
                LOG.warning("out of memory: %s are halved to %d at a time, and done again", self.what, self.at_once)
                continue
            yield found
            start = part.stop


def too_large(sequence: Sequence, what: str = "") -> BadInput:
    """For one that does not fit in memory by itself; `what` it is stands before its key."""
    return BadInput(
        f"{what}{sequence.key}: its {len(sequence)} tokens do not fit in memory even alone; make it shorter"
    )


def _beyond_consumer(name: str, sequence: Sequence, remedy: str) -> BadInput:
    return BadInput(
        f"curvature.modules: what is made of {name}'s gradient of one document ({sequence.key}) does not fit in the "
        f"memory that is left next to the model; {remedy}"
    )


def sums_in_float32() -> AbstractContextManager[None]:
    """While open, GPUs sum up products of half precisions in float32 throughout. It may be nested, and in threads."""
    return _in_float32.needed()


def _sum_in_float32() -> Callable[[], None]:
    settings = torch.backends.cuda.matmul
    usual = {name: getattr(settings, name) for name in REDUCED}

    def set_back() -> None:
        for name, value in usual.items():
            setattr(settings, name, value)

    for name in REDUCED:
        setattr(settings, name, False)
    return set_back


_in_float32 = WhileAny(_sum_in_float32)


def _refuse_bypassed(modules: SequenceOf[TrackedModule], met: set[str]) -> None:
    """By name, modules that a whole batch has not met; routed experts may be without tokens."""
    missing = [module.name for module in modules if module.expert is None and module.name not in met]
    if missing:
        others = f" (and {len(missing) - 1} more)" if len(missing) > 1 else ""
        raise BadInput(
            f"curvature.modules: {missing[0]}{others} was not called in the model's forward pass, or not on the way to "
            "its loss; leave it out of the patterns"
        )


def _let_go(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.empty_cache()


def accumulation_dtype(model: nn.Module) -> torch.dtype:
    """float32 sums for every model but a float64 one, whose sums stay float64."""
    return torch.float64 if next(model.parameters()).dtype == torch.float64 else torch.float32


def placement(model: nn.Module, module: TrackedModule) -> tuple[torch.device, torch.dtype]:
    """Where a module's factors belong: where it computes, in the dtype of the model's sums."""
    return module_device(model, module), accumulation_dtype(model)
