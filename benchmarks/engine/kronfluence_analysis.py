"""kronfluence 1.0.1 as a peer: the same checkpoint, documents and queries, with equal settings.

What has to be made equal: kronfluence batches by count; its covariance takes the attention mask from the task's hook;
its default damping is 1e-8, and `None` means 0.1 · mean(Λ); it truncates the preconditioned query gradient unweighted,
by a randomized SVD unless told otherwise; it tracks `nn.Linear` only, so a Conv1D becomes an equal linear layer here.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence as SequenceOf
from pathlib import Path

import torch
from kronfluence.analyzer import Analyzer, prepare_model
from kronfluence.arguments import FactorArguments, ScoreArguments
from kronfluence.task import Task
from kronfluence.utils.dataset import DataLoaderKwargs
from torch import Tensor, nn
from torch.nn import functional
from transformers.pytorch_utils import Conv1D

from benchmarks.engine.padding import IGNORED, pad
from compute.batches import Sequence


class LanguageModelling(Task):
    """Summed token cross-entropy of documents, and of the completions of queries. B sequences, T positions."""

    def __init__(self, modules: SequenceOf[str]) -> None:
        self.modules = list(modules)

    def compute_train_loss(self, batch: dict[str, Tensor], model: nn.Module, sample: bool = False) -> Tensor:
        logits_NV, targets_N = _predictions(batch, model)
        if sample:
            with torch.no_grad():
                sampled_N = torch.multinomial(logits_NV.softmax(-1), num_samples=1).squeeze(1)
                targets_N = torch.where(targets_N == IGNORED, targets_N, sampled_N)
        return functional.cross_entropy(logits_NV, targets_N, reduction="sum", ignore_index=IGNORED)

    def compute_measurement(self, batch: dict[str, Tensor], model: nn.Module) -> Tensor:
        return self.compute_train_loss(batch, model)

    def get_influence_tracked_modules(self) -> list[str]:
        return self.modules

    def get_attention_mask(self, batch: dict[str, Tensor]) -> Tensor:
        return batch["attention_mask"]


class Peer:
    """A kronfluence analysis of a copy of `model`; factors and scores are kept under `directory`."""

    def __init__(
        self,
        model: nn.Module,
        modules: SequenceOf[str],
        directory: Path,
        *,
        batch_size: int = 8,
        empirical: bool = True,
    ) -> None:
        self.batch_size = batch_size
        self.factor_arguments = FactorArguments(
            strategy="ekfac", use_empirical_fisher=empirical, covariance_max_examples=None, lambda_max_examples=None
        )
        task = LanguageModelling(modules)
        self.analyzer = Analyzer(
            analysis_name="peer",
            model=prepare_model(with_linear_layers(copy.deepcopy(model)), task),
            task=task,
            cpu=True,
            disable_tqdm=True,
            output_dir=str(directory),
        )
        self.analyzer.set_dataloader_kwargs(DataLoaderKwargs(collate_fn=pad))

    def fit(self, documents: SequenceOf[Sequence], *, name: str = "factors") -> None:
        self.fit_covariances(documents, name=name)
        self.decompose(name=name)
        self.fit_eigenvalues(documents, name=name)

    def fit_covariances(self, documents: SequenceOf[Sequence], *, name: str = "factors") -> None:
        self.analyzer.fit_covariance_matrices(name, list(documents), self.batch_size, **self._fit_settings())

    def decompose(self, *, name: str = "factors") -> None:
        self.analyzer.perform_eigendecomposition(name, **self._fit_settings())

    def fit_eigenvalues(self, documents: SequenceOf[Sequence], *, name: str = "factors") -> None:
        self.analyzer.fit_lambda_matrices(name, list(documents), self.batch_size, **self._fit_settings())

    def scores(
        self,
        queries: SequenceOf[Sequence],
        documents: SequenceOf[Sequence],
        *,
        rank: int | None = None,
        exact_svd: bool = True,
        factors: str = "factors",
        query_batch: int = 1,
        dtype: torch.dtype = torch.float32,
    ) -> Tensor:
        """Scores of shape queries × documents, all queries in one pass over the documents, in products of `dtype`."""
        self.analyzer.compute_pairwise_scores(
            scores_name="scores",
            factors_name=factors,
            query_dataset=list(queries),
            train_dataset=list(documents),
            per_device_query_batch_size=query_batch,
            per_device_train_batch_size=self.batch_size,
            score_args=ScoreArguments(
                damping_factor=None,
                query_gradient_low_rank=rank,
                use_full_svd=exact_svd,
                query_gradient_accumulation_steps=math.ceil(len(queries) / query_batch),
                per_sample_gradient_dtype=dtype,
                score_dtype=dtype,
            ),
            overwrite_output_dir=True,
        )
        return self.analyzer.load_pairwise_scores("scores")["all_modules"]

    def _fit_settings(self) -> dict:
        return {"factor_args": self.factor_arguments, "overwrite_output_dir": True}


def with_linear_layers(model: nn.Module) -> nn.Module:
    """`model` with every Conv1D replaced by an equal nn.Linear, in place."""
    for parent in list(model.modules()):
        for name, layer in list(parent.named_children()):
            if isinstance(layer, Conv1D):
                inputs, outputs = layer.weight.shape
                linear = nn.Linear(inputs, outputs, dtype=layer.weight.dtype)
                linear.weight.data, linear.bias.data = layer.weight.data.T.contiguous(), layer.bias.data
                setattr(parent, name, linear)
    return model


def _predictions(batch: dict[str, Tensor], model: nn.Module) -> tuple[Tensor, Tensor]:
    logits_BTV = model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"], use_cache=False).logits
    return logits_BTV[:, :-1].flatten(0, 1).float(), batch["labels"][:, 1:].flatten()
