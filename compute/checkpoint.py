"""Checkpoints: any Hugging Face causal language model, from safetensors only and without remote code."""

from __future__ import annotations

import logging
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from accelerate.utils import get_max_memory
from torch import nn
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, PreTrainedTokenizerFast

from compute.devices import input_device, weights
from compute.errors import BadInput

DTYPES = {"float32": torch.float32, "float64": torch.float64, "bfloat16": torch.bfloat16, "float16": torch.float16}


def best_device() -> str:
    """The accelerator where there is one, otherwise the CPU."""
    return "cuda" if torch.cuda.is_available() else "cpu"


def load_model(
    location: str,
    *,
    revision: str | None = None,
    dtype: str = "float32",
    device: str | None = None,
    spread: bool = False,
    max_memory: dict[int | str, str] | None = None,
) -> nn.Module:
    """The causal language model at `location` (a directory or a hub id), in eval mode with frozen weights.

    It is on one device, unless it is to be `spread` over all there are by accelerate, each holding no more weights than
    `max_memory` says; what no device has room for waits in the CPU's memory, and then in the checkpoint's files.
    Raises BadInput where there are no safetensors, where weights are missing or left over (a wrong architecture or an
    adapter would otherwise run on random weights), where loading needs remote code, or where the model is not causal.
    """
    _refuse_adapter(location)
    made_again = TemporaryDirectory(prefix="headwater-")
    try:
        with quiet_transformers():
            model, report = AutoModelForCausalLM.from_pretrained(
                location,
                revision=revision,
                dtype=DTYPES[dtype],
                use_safetensors=True,
                trust_remote_code=False,
                output_loading_info=True,
                **(_device_map(device, max_memory, made_again) if spread else {}),
            )
    except (OSError, ValueError, RuntimeError, ImportError) as error:
        raise BadInput(f"model {location}: cannot be loaded: {_first_sentence(error)}") from error
    except Exception as error:  # safetensors raises its own class for a truncated file
        if type(error).__name__ == "SafetensorError":
            raise BadInput(f"model {location}: a safetensors file is damaged ({error}); copy it again") from error
        raise
    _refuse_incomplete(location, report)
    _refuse_not_finite(location, model)
    if dtype == "float64":
        model.set_experts_implementation("eager")  # grouped products of experts are of narrower dtypes alone
    if spread:
        model.weights_made_again = made_again  # as long as the model is there
    else:
        device = device or best_device()
        try:
            model = model.to(device)
        except torch.OutOfMemoryError as error:
            raise BadInput(
                f"model {location}: its weights in {dtype} do not fit into the memory of {device}; give "
                "model.device_map: auto, or a narrower model.dtype"
            ) from error
    model.eval().requires_grad_(False)
    _refuse_not_causal(location, model)
    return model


def load_tokenizer(location: str, *, revision: str | None = None) -> PreTrainedTokenizerFast:
    """The checkpoint's fast tokenizer (its offsets are needed to cut text into windows)."""
    try:
        tokenizer = AutoTokenizer.from_pretrained(location, revision=revision, trust_remote_code=False)
    except Exception as error:  # tokenizers raises bare Exception for a damaged file
        raise BadInput(f"model {location}: its tokenizer cannot be loaded: {_first_sentence(error)}") from error
    if not tokenizer.is_fast:
        raise BadInput(f"model {location}: its tokenizer has no fast version, which character offsets need")
    return tokenizer


def model_skeleton(location: str, *, revision: str | None = None) -> nn.Module:
    """The architecture alone, on the meta device: module names and shapes, no weights."""
    _refuse_adapter(location)
    try:
        with quiet_transformers():
            config = AutoConfig.from_pretrained(location, revision=revision, trust_remote_code=False)
        with torch.device("meta"):
            return AutoModelForCausalLM.from_config(config)
    except (OSError, ValueError, KeyError) as error:
        if isinstance(error, OSError) and not Path(location).is_dir():
            raise BadInput(f"model {location}: cannot be reached: {_first_sentence(error)}") from error
        raise BadInput(f"model {location}: is not a causal language model: {_first_sentence(error)}") from error


def skeleton_of(model: nn.Module) -> nn.Module:
    """The architecture of a model that is there, on the meta device."""
    with torch.device("meta"):
        return AutoModelForCausalLM.from_config(model.config)


def context_length(model: nn.Module) -> int | None:
    """The longest sequence that the model's positions allow, where its configuration states one."""
    for name in ("max_position_embeddings", "n_positions", "n_ctx"):
        if isinstance(length := getattr(model.config, name, None), int) and length > 0:
            return length
    return None


def check_vocabulary(model: nn.Module, vocabulary: int, name: str) -> None:
    """Raises BadInput where the tokenizer can produce ids for which the model has no embedding."""
    rows = model.get_input_embeddings().weight.shape[0]
    if vocabulary > rows:
        raise BadInput(
            f"model {name}: the tokenizer has {vocabulary} tokens but the model embeds only {rows}; "
            "name the tokenizer that the model was trained with"
        )


def same_architecture(model: nn.Module, other: nn.Module) -> bool:
    """Whether two models have the same parameters by name and shape."""
    return {n: p.shape for n, p in model.named_parameters()} == {n: p.shape for n, p in other.named_parameters()}


def parameter_count(model: nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters())


def weight_bytes(model: nn.Module, dtype: str) -> int:
    return parameter_count(model) * DTYPES[dtype].itemsize


def _device_map(device: str | None, max_memory: dict[int | str, str] | None, directory: TemporaryDirectory) -> dict:
    """accelerate's own placement; on the CPU and the disk alone where the CPU is named.

    The directory is for weights that wait on the disk and are otherwise than in the checkpoint's files (experts).
    """
    if device == "cpu":
        max_memory = {"cpu": (max_memory or {}).get("cpu") or get_max_memory()["cpu"]}
    return {"device_map": "auto", "max_memory": max_memory, "offload_folder": directory.name}


def _refuse_adapter(location: str) -> None:
    if (Path(location) / "adapter_config.json").exists():
        raise BadInput(f"model {location}: is a PEFT adapter, not a whole model; merge it into its base model first")


def _refuse_incomplete(location: str, report: dict) -> None:
    for problem, names in (("lacks", report["missing_keys"]), ("has unknown", report["unexpected_keys"])):
        if names:
            shown = ", ".join(sorted(names)[:3])
            raise BadInput(
                f"model {location}: the checkpoint {problem} weights ({shown}{', …' if len(names) > 3 else ''}); "
                "check that its config.json belongs to its safetensors"
            )
    if report["mismatched_keys"]:
        raise BadInput(f"model {location}: weights have other shapes than config.json says; check the checkpoint")


def _refuse_not_finite(location: str, model: nn.Module) -> None:
    for name, weight in weights(model):
        if not torch.isfinite(weight).all():
            raise BadInput(
                f"model {location}: {name} holds values that are not finite (NaN or infinite), so would every loss; "
                "check the checkpoint, or a wider dtype"
            )


@torch.no_grad()
def _refuse_not_causal(location: str, model: nn.Module) -> None:
    """By two texts that differ in their last token alone: what stands before it must not notice."""
    token_ids = torch.tensor([[0, 0, 0, 0], [0, 0, 0, 1]], device=input_device(model))
    logits = model(input_ids=token_ids, use_cache=False).logits[:, :-1]
    rounding = 8 * torch.finfo(logits.dtype).eps
    if (logits[0] - logits[1]).abs().max() > rounding * logits.abs().max():
        raise BadInput(
            f"model {location}: predicts a token from tokens that follow it, so it is no causal language model; "
            "name a checkpoint of one"
        )


def _first_sentence(error: Exception) -> str:
    return str(error).strip().splitlines()[0].rstrip(".") if str(error).strip() else type(error).__name__


class quiet_transformers:  # noqa: N801 (a context manager used like a function)
    """Keeps transformers' progress bars, and notices about loading and about tries to reach the hub, out of the
    terminal: what they come to is an error or nothing."""

    hub = logging.getLogger("huggingface_hub")

    def __enter__(self) -> None:
        from transformers.utils import logging as hf_logging

        self.bars, self.level = hf_logging.is_progress_bar_enabled(), hf_logging.get_verbosity()
        hf_logging.disable_progress_bar()
        hf_logging.set_verbosity(logging.ERROR)
        self.hub_level = self.hub.level
        self.hub.setLevel(logging.ERROR)

    def __exit__(self, *_) -> None:
        from transformers.utils import logging as hf_logging

        self.hub.setLevel(self.hub_level)
        hf_logging.set_verbosity(self.level)
        if self.bars:
            hf_logging.enable_progress_bar()
