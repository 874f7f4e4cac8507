"""What the comparison times: plain passes over the documents, Headwater's stages, and kronfluence's.

Each contender does its work once per call and returns nothing, or scores of shape queries × documents. All use the
same model, documents, queries and batch size, the MLP layers, and labels sampled from the model.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn import functional
from transformers import GPTNeoXConfig, GPTNeoXForCausalLM

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from compute.batches import Sequence  # noqa: E402
from compute.covariances import ModuleCovariances, fit_covariances  # noqa: E402
from compute.curvature import Curvature  # noqa: E402
from compute.eigenbasis import ModuleEigenbasis, decompose  # noqa: E402
from compute.eigenvalues import fit_eigenvalues  # noqa: E402
from compute.influence import score_documents  # noqa: E402
from compute.query_gradients import query_gradients  # noqa: E402
from compute.tracked_modules import select_modules  # noqa: E402
from tests.compute.peer import IGNORED, Peer, pad  # noqa: E402

VARIANTS = {
    "rank 32": (32, ("ekfac",)),
    "rank 32, also dot product": (32, ("ekfac", "dot")),
    "full rank": (None, ("ekfac",)),
}


@dataclass(frozen=True, kw_only=True)
class Setting:
    """The model's size, and how much text there is; documents have `shortest` to `tokens` tokens."""

    width: int = 256
    layers: int = 4
    vocabulary: int = 8000
    documents: int = 200
    tokens: int = 256
    shortest: int = 256
    queries: int = 32
    batch: int = 8
    threads: int = 2


class Contenders:
    """The contenders by name, on one model with its documents; factors are kept under `directory`."""

    def __init__(self, setting: Setting, directory: Path, *, labels: str = "sampled") -> None:
        torch.set_num_threads(setting.threads)
        self.setting, self.directory, self.labels = setting, directory, labels
        self.model = build_model(setting)
        self.modules = select_modules(self.model, "mlp")
        self.documents, self.queries = draw_sequences(setting)
        self.settings = {"labels": labels, "seed": 0, "token_budget": setting.batch * setting.tokens}
        self.gradients: dict = {}

    @cached_property
    def all(self) -> dict[str, Callable[[], Tensor | None]]:
        """In the order that each needs: scores take the gradients, eigenvalues the basis, of the call before."""
        found = {
            "training pass": self.training_pass,
            "floor: forward and activation backward": self.floor,
            "headwater covariances": self.headwater_covariances,
            "headwater decomposition": self.headwater_decomposition,
            "headwater eigenvalues": self.headwater_eigenvalues,
        }
        for name, variant in VARIANTS.items():
            found[f"headwater query gradients, {name}"] = partial(self.headwater_gradients, *variant)
            found[f"headwater scores and norms, {name}"] = partial(self.headwater_scores, *variant)
        return found | {
            "kronfluence covariances": lambda: self.peer.fit_covariances(self.documents),
            "kronfluence decomposition": lambda: self.peer.decompose(),
            "kronfluence eigenvalues": lambda: self.peer.fit_eigenvalues(self.documents),
            "kronfluence query gradients and scores, rank 32": partial(self.kronfluence_scores, 32),
            "kronfluence query gradients and scores, full rank": partial(self.kronfluence_scores, None),
        }

    @cached_property
    def peer(self) -> Peer:
        names = [module.name for module in self.modules]
        empirical = self.labels == "empirical"
        return Peer(self.model, names, self.directory, batch_size=self.setting.batch, empirical=empirical)

    def training_pass(self) -> None:
        """Forward and full backward with every weight's gradient, without an optimizer's step."""
        self.model.requires_grad_(True)
        for batch in self._padded_batches():
            _summed_loss(self.model, batch).backward()
            self.model.zero_grad(set_to_none=True)
        self.model.requires_grad_(False)

    def floor(self) -> None:
        """Frozen weights, backward down to the lowest tracked module: what any method of this kind has to do."""
        lowest = self.model.get_submodule(self.modules[0].name)
        handle = lowest.register_forward_hook(lambda _, __, output: output.requires_grad_(True))
        for batch in self._padded_batches():
            _summed_loss(self.model, batch).backward()
        handle.remove()

    def headwater_covariances(self) -> None:
        self.covariances = fit_covariances(self.model, self.modules, self.documents, **self.settings)

    def headwater_decomposition(self) -> None:
        self.basis = decompose(self.covariances)

    def headwater_eigenvalues(self) -> None:
        eigenvalues = fit_eigenvalues(self.model, self.modules, self.basis, self.documents, **self.settings)
        self.curvature = Curvature(self.basis, eigenvalues)

    def headwater_gradients(self, rank: int | None, methods: tuple[str, ...]) -> None:
        found = query_gradients(self.model, self.modules, self.queries, self.curvature, rank=rank, methods=methods)
        # The last ones only, so that one contender's memory is not another's.
        self.gradients = {(rank, methods): [factors for _, _, factors in found]}

    def headwater_scores(self, rank: int | None, methods: tuple[str, ...]) -> Tensor:
        if (rank, methods) not in self.gradients:
            self.headwater_gradients(rank, methods)
        scores = score_documents(
            self.model,
            self.modules,
            self.gradients[rank, methods],
            self.documents,
            token_budget=self.settings["token_budget"],
            typical_tokens=self.setting.tokens,
        )
        return torch.from_numpy(scores.scores_QD)

    def kronfluence_scores(self, rank: int | None) -> Tensor:
        return self.peer.scores(
            self.queries, self.documents, rank=rank, exact_svd=False, query_batch=min(8, len(self.queries))
        )

    def fit(self) -> None:
        """Both tools' factors."""
        self.headwater_covariances()
        self.headwater_decomposition()
        self.headwater_eigenvalues()
        self.peer.fit(self.documents)

    def save(self) -> None:
        """Headwater's factors, for the processes that measure memory; kronfluence keeps its own."""
        tensors = {f"{name}|eigenvalues": value for name, value in self.curvature.eigenvalues.items()}
        for name in self.basis:
            parts = vars(self.covariances[name]) | vars(self.basis[name])
            tensors |= {
                f"{name}|{part}": value.clone(memory_format=torch.contiguous_format)
                for part, value in parts.items()
                if part != "tokens"
            }
        save_file(tensors, self.directory / "headwater.safetensors")

    def load(self) -> None:
        tensors = load_file(self.directory / "headwater.safetensors")

        def parts_of(kind: type, name: str) -> dict[str, Tensor]:
            return {part: tensors[f"{name}|{part}"] for part in kind.__dataclass_fields__ if part != "tokens"}

        names = [module.name for module in self.modules]
        self.covariances = {n: ModuleCovariances(**parts_of(ModuleCovariances, n), tokens=1) for n in names}
        self.basis = {n: ModuleEigenbasis(**parts_of(ModuleEigenbasis, n)) for n in names}
        self.curvature = Curvature(self.basis, {n: tensors[f"{n}|eigenvalues"] for n in names})

    def _padded_batches(self):
        for start in range(0, len(self.documents), self.setting.batch):
            yield pad(self.documents[start : start + self.setting.batch])


def build_model(setting: Setting) -> nn.Module:
    torch.manual_seed(0)
    config = GPTNeoXConfig(
        vocab_size=setting.vocabulary,
        hidden_size=setting.width,
        intermediate_size=4 * setting.width,
        num_hidden_layers=setting.layers,
        num_attention_heads=max(1, setting.width // 64),
        max_position_embeddings=setting.tokens,
    )
    return GPTNeoXForCausalLM(config).eval().requires_grad_(False)


def draw_sequences(setting: Setting) -> tuple[list[Sequence], list[Sequence]]:
    """Documents and queries of tokens with falling frequency; a query's last eight tokens are its completion."""
    generator = torch.Generator().manual_seed(1)
    frequency_V = 1.0 / torch.arange(2, setting.vocabulary + 2)

    def draw(key: str, length: int, loss_start: int = 1) -> Sequence:
        tokens = torch.multinomial(frequency_V, length, replacement=True, generator=generator).tolist()
        return Sequence(key, tokens, loss_start)

    lengths = torch.randint(setting.shortest, setting.tokens + 1, (setting.documents,), generator=generator).tolist()
    documents = [draw(f"document-{number}", length) for number, length in enumerate(lengths)]
    length = min(64, setting.tokens)
    return documents, [draw(f"query-{number}", length, length - 8) for number in range(setting.queries)]


def _summed_loss(model: nn.Module, batch: dict[str, Tensor]) -> Tensor:
    logits_BTV = model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"], use_cache=False).logits
    logits_NV, targets_N = logits_BTV[:, :-1].flatten(0, 1), batch["labels"][:, 1:].flatten()
    return functional.cross_entropy(logits_NV, targets_N, reduction="sum", ignore_index=IGNORED)
