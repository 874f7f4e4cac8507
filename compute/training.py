"""Training a small causal language model from scratch, with transformers' Trainer, so that a study can own its model.

Documents are packed into rows (`packing.py`), whose order is drawn once, for all epochs, from the seed: same documents,
settings and machine, same weights.

The learning rate rises over `warmup` of the run and then falls to zero on a cosine. Where `max_minutes` would cut the
run short, the fall is hastened so that it ends with the time (and the weights then depend on the machine's speed).
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from transformers import (
    AutoModelForCausalLM,
    GPT2Config,
    GPTNeoXConfig,
    LlamaConfig,
    PreTrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    PrinterCallback,
    Trainer,
    TrainerCallback,
    TrainingArguments,
    set_seed,
)

from compute.checkpoint import quiet_transformers
from compute.errors import BadInput
from compute.kept_memory import memory_kept
from compute.packing import PackedRows

ARCHITECTURES = ("gpt_neox", "llama", "gpt2")


@dataclass(frozen=True, kw_only=True)
class TrainSettings:
    """What to train and for how long; every mistake is reported on construction."""

    architecture: str = "gpt_neox"  # gpt_neox, llama or gpt2
    hidden_size: int = 128  # width of the residual stream
    layers: int = 4
    heads: int = 4  # must divide hidden_size
    intermediate_size: int = 512  # width of the MLP
    context: int = 128  # most tokens of a document, and of a row of documents
    epochs: int = 1  # passes over the documents
    batch_size: int = 16  # rows of `context` tokens per optimizer step
    learning_rate: float = 1e-3  # peak of AdamW's learning rate
    warmup: float = 0.05  # share of the run over which the learning rate rises
    weight_decay: float = 0.1  # on matrices only, not on biases and norms
    beta2: float = 0.99  # AdamW's memory of squared gradients
    max_grad_norm: float = 1.0
    seed: int = 0
    max_minutes: float | None = None  # stop after this time, learning rate at zero

    def __post_init__(self) -> None:
        if self.architecture not in ARCHITECTURES:
            raise BadInput(f"architecture is {self.architecture!r}; choose one of {', '.join(ARCHITECTURES)}.")
        for name in ("hidden_size", "layers", "heads", "intermediate_size", "epochs", "batch_size"):
            _require(getattr(self, name) >= 1, name, getattr(self, name), "at least 1")
        _require(self.context >= 2, "context", self.context, "at least 2 tokens")
        _require(
            self.hidden_size % self.heads == 0, "hidden_size", self.hidden_size, f"a multiple of heads ({self.heads})"
        )
        rotary = self.architecture != "gpt2"
        _require(
            not rotary or self.hidden_size // self.heads % 2 == 0,
            "hidden_size / heads",
            self.hidden_size // self.heads,
            "even",
        )
        _require(self.learning_rate > 0, "learning_rate", self.learning_rate, "above 0")
        _require(0 <= self.warmup < 1, "warmup", self.warmup, "a share from 0 to below 1")
        _require(self.weight_decay >= 0, "weight_decay", self.weight_decay, "at least 0")
        _require(0 < self.beta2 < 1, "beta2", self.beta2, "between 0 and 1")
        _require(self.max_grad_norm > 0, "max_grad_norm", self.max_grad_norm, "above 0")
        _require(self.max_minutes is None or self.max_minutes > 0, "max_minutes", self.max_minutes, "above 0")


@dataclass(frozen=True, kw_only=True)
class TrainSummary:
    """What a finished run amounted to."""

    steps: int  # optimizer steps taken
    planned_steps: int  # more than `steps` only where max_minutes cut the run short
    documents: int  # trained on, per epoch
    tokens: int  # seen over all steps, padding not counted
    parameters: int
    loss: float  # mean per token over the last tenth of the steps
    seconds: float


def empty_model(settings: TrainSettings, vocab_size: int) -> PreTrainedModel:
    """The architecture without weights, on the meta device: enough to see its modules, at no cost."""
    with torch.device("meta"):
        return AutoModelForCausalLM.from_config(_config(settings, vocab_size))


def train_causal_lm(
    documents: list[Sequence[int]],
    tokenizer: PreTrainedTokenizerBase,
    settings: TrainSettings,
    *,
    directory: str | Path,
    on_log: Callable[[dict[str, float], int], None] | None = None,
    on_progress: Callable[[int, int], None] | None = None,
) -> TrainSummary:
    """Train on tokenized documents and save weights (safetensors), config and tokenizer into `directory`.

    `on_log` gets the loss and learning rate with the step, some two hundred times a run; `on_progress` gets the steps
    done and planned after every step. Weights that are not finite are never saved.
    """
    documents = _usable(documents, len(tokenizer), settings.context)
    set_seed(settings.seed)
    model = AutoModelForCausalLM.from_config(_config(settings, len(tokenizer), tokenizer))
    rows = PackedRows(documents, context=settings.context, epochs=settings.epochs, seed=settings.seed)
    clock = _Clock(planned_steps=math.ceil(len(rows) / settings.batch_size), max_minutes=settings.max_minutes)
    reporter = _Reporter(clock, on_log, on_progress)
    trainer = Trainer(
        model=model,
        args=_arguments(settings, clock.planned_steps, directory),
        train_dataset=rows,
        data_collator=rows.collate,
        callbacks=[reporter],
        optimizers=_optimizer(model, settings, clock),
    )
    trainer.remove_callback(PrinterCallback)
    clock.start()
    with memory_kept(trainer.args.device):
        trainer.train()
    _save(trainer.model, tokenizer, Path(directory))
    return TrainSummary(
        steps=clock.steps,
        planned_steps=clock.planned_steps,
        documents=len(documents),
        tokens=rows.tokens_in(clock.steps * settings.batch_size),
        parameters=sum(parameter.numel() for parameter in model.parameters()),
        loss=reporter.last_loss(),
        seconds=clock.elapsed(),
    )


class _Clock:
    """How far the run has come, by steps or by time, whichever is further."""

    def __init__(self, *, planned_steps: int, max_minutes: float | None) -> None:
        self.planned_steps, self.seconds = planned_steps, max_minutes * 60 if max_minutes else math.inf
        self.steps, self.started = 0, time.monotonic()

    def start(self) -> None:
        self.started = time.monotonic()

    def elapsed(self) -> float:
        return time.monotonic() - self.started

    def progress(self) -> float:
        return min(1.0, max(self.steps / self.planned_steps, self.elapsed() / self.seconds))


class _Reporter(TrainerCallback):
    """Passes progress and losses on, ends the run when its time is over, and stops it where the loss is not finite."""

    def __init__(self, clock: _Clock, on_log, on_progress) -> None:
        self.clock, self.on_log_to, self.on_progress = clock, on_log, on_progress
        self.losses: list[float] = []

    def on_step_end(self, args, state, control, **kwargs) -> None:
        self.clock.steps = state.global_step
        if self.on_progress is not None:
            self.on_progress(self.clock.steps, self.clock.planned_steps)
        if self.clock.elapsed() >= self.clock.seconds:
            control.should_training_stop = control.should_log = True

    def on_log(self, args, state, control, logs=None, **kwargs) -> None:
        values = {
            name: float(value) for name, value in (logs or {}).items() if name in ("loss", "learning_rate", "grad_norm")
        }
        if "loss" not in values:
            return
        if not math.isfinite(values["loss"]):
            raise BadInput(
                f"Training's loss is {values['loss']} at step {state.global_step}; "
                "lower learning_rate or raise warmup in model.train."
            )
        self.losses.append(values["loss"])
        if self.on_log_to is not None:
            self.on_log_to(values, state.global_step)

    def last_loss(self) -> float:
        last = self.losses[-max(1, len(self.losses) // 10) :]
        return sum(last) / len(last) if last else math.nan


def _require(condition: bool, name: str, value: object, rule: str) -> None:
    if not condition:
        raise BadInput(f"{name} is {value}, which must be {rule}; change it in model.train.")


def _config(
    settings: TrainSettings, vocab_size: int, tokenizer: PreTrainedTokenizerBase | None = None
) -> PreTrainedConfig:
    sizes = {
        "vocab_size": vocab_size,
        "hidden_size": settings.hidden_size,
        "num_hidden_layers": settings.layers,
        "num_attention_heads": settings.heads,
        "max_position_embeddings": settings.context,
        "bos_token_id": getattr(tokenizer, "bos_token_id", None),
        "eos_token_id": getattr(tokenizer, "eos_token_id", None),
        "pad_token_id": getattr(tokenizer, "pad_token_id", None),
    }
    if settings.architecture == "gpt2":
        return GPT2Config(**sizes, n_inner=settings.intermediate_size, resid_pdrop=0.0, embd_pdrop=0.0, attn_pdrop=0.0)
    kind = GPTNeoXConfig if settings.architecture == "gpt_neox" else LlamaConfig
    return kind(**sizes, intermediate_size=settings.intermediate_size)


def _usable(documents: list[Sequence[int]], vocab_size: int, context: int) -> list[Sequence[int]]:
    """Documents with at least one token to predict; the others teach nothing."""
    usable = [document for document in documents if len(document) >= 2]
    if not usable:
        raise BadInput(
            "The corpus has no document of at least two tokens to train on; check corpus.path and its text field."
        )
    longest = max(len(document) for document in usable)
    if longest > context:
        raise BadInput(
            f"The longest document has {longest} tokens, more than the model's context of {context}; "
            "lower corpus.max_tokens or raise model.train.context."
        )
    largest = max(max(document) for document in usable)
    if largest >= vocab_size:
        raise BadInput(
            f"A document holds token {largest}, but the tokenizer has {vocab_size} tokens; "
            "tokenize the corpus with the model's tokenizer."
        )
    return usable


def _arguments(settings: TrainSettings, planned_steps: int, directory: str | Path) -> TrainingArguments:
    return TrainingArguments(
        output_dir=str(directory),
        per_device_train_batch_size=settings.batch_size,
        max_steps=planned_steps,
        train_sampling_strategy="sequential",
        max_grad_norm=settings.max_grad_norm,
        seed=settings.seed,
        logging_steps=max(1, planned_steps // 200),
        logging_nan_inf_filter=False,
        save_strategy="no",
        report_to="none",
        disable_tqdm=True,
        remove_unused_columns=False,
        dataloader_pin_memory=False,
    )


def _optimizer(model: PreTrainedModel, settings: TrainSettings, clock: _Clock):
    matrices = [parameter for parameter in model.parameters() if parameter.ndim >= 2]
    others = [parameter for parameter in model.parameters() if parameter.ndim < 2]
    groups = [{"params": matrices, "weight_decay": settings.weight_decay}, {"params": others, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=settings.learning_rate, betas=(0.9, settings.beta2), fused=True)

    def factor(_: int) -> float:
        progress = clock.progress()
        if progress < settings.warmup:
            return (progress + 1 / clock.planned_steps) / (settings.warmup + 1 / clock.planned_steps)
        return 0.5 * (1 + math.cos(math.pi * (progress - settings.warmup) / (1 - settings.warmup)))

    return optimizer, torch.optim.lr_scheduler.LambdaLR(optimizer, factor)


def _save(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, directory: Path) -> None:
    broken = [name for name, parameter in model.named_parameters() if not torch.isfinite(parameter).all()]
    if broken:
        raise BadInput(
            f"Training left values in {broken[0]} that are not finite, so nothing was saved; "
            "lower learning_rate in model.train."
        )
    directory.mkdir(parents=True, exist_ok=True)
    with quiet_transformers():
        model.save_pretrained(directory)
        tokenizer.save_pretrained(directory)
