"""bergson 2.5.1's stages, by the functions that its pipeline's workers call: full rank, one pass for all queries.

What its workers do besides (loading the model, tokenizing, a process per device) is left out of what is timed, and its
scores are kept in memory. It needs an environment of its own (`make bench` makes one).
"""

from __future__ import annotations

import shutil
from pathlib import Path

import torch
from bergson.collection import collect_gradients
from bergson.config.config import HessianConfig, IndexConfig, InversionConfig, PreprocessConfig, ScoreConfig
from bergson.data import allocate_batches
from bergson.gradients import GradientProcessor
from bergson.hessians.apply_hessian import EkfacApplicator, EkfacConfig
from bergson.hessians.hessian_approximations import fit_factored_hessians
from bergson.score.score import create_scorer
from bergson.score.score_writer import InMemorySequenceScoreWriter
from bergson.utils.worker_utils import setup_model_and_peft
from datasets import Dataset
from torch import Tensor

from benchmarks.engine.contender import Contender
from compute.batches import Sequence
from compute.tracked_modules import select_modules

PRECISIONS = {"float32": "fp32", "bfloat16": "bf16"}
IGNORED = -100


class Bergson(Contender):
    def model(self, precision: str = "float32"):
        if precision not in self._models:
            self._models[precision], _ = setup_model_and_peft(self._config("model", precision))
        return self._models[precision]

    def factors(self, labels: str = "sampled") -> None:
        config = self._config(f"bergson-factors-{labels}")
        hessian = HessianConfig(method="kfac", ev_correction=True, use_dataset_labels=labels == "empirical")
        documents = _dataset(self.documents)
        with self.timed("factors"):
            fit_factored_hessians(
                self.model(),
                documents,
                config,
                hessian,
                target_modules=self._targets(),
                attention_cfgs={},
                batches=self._batches(documents),
                path=str(config.partial_run_path),
                do_eigendecomposition=True,
            )

    def query_gradients(self, count: int, labels: str = "sampled") -> None:
        config, queries = self._config(f"bergson-queries-{count}-{labels}"), _dataset(self.queries[:count])
        applied = self._emptied(self._applied(count, labels))
        apply = EkfacConfig(
            hessian_method_path=str(self._folder(f"bergson-factors-{labels}")),
            gradient_path=str(config.partial_run_path),
            run_path=str(applied),
            ev_correction=True,
        )
        with self.timed("query gradients"):
            self._collect(config, queries, preprocess_cfg=PreprocessConfig())
            EkfacApplicator(apply, inversion_cfg=InversionConfig()).compute_ivhp_sharded()

    def scores(self, count: int, precision: str = "float32", labels: str = "sampled") -> Tensor:
        config, documents = self._config("bergson-scores", precision), _dataset(self.documents)
        scorer = create_scorer(
            config.partial_run_path,
            documents,
            ScoreConfig(query_path=str(self._applied(count, labels))),
            PreprocessConfig(),
            device=torch.device("cpu"),
            dtype=getattr(torch, precision),
        )
        scorer.writer = InMemorySequenceScoreWriter(len(documents), count)
        with self.timed("scores"):
            self._collect(config, documents, precision, scorer=scorer)
        return scorer.writer.scores.T.contiguous()

    def _collect(self, config: IndexConfig, data: Dataset, precision: str = "float32", **named) -> None:
        collect_gradients(
            self.model(precision),
            data,
            GradientProcessor(include_bias=True),
            config,
            batches=self._batches(data),
            target_modules=self._targets(),
            **named,
        )

    def _targets(self) -> set[str]:
        """The MLP layers, by their names in the model without its head."""
        model = self.model()
        return {module.name.removeprefix(f"{model.base_model_prefix}.") for module in select_modules(model, "mlp")}

    def _batches(self, data: Dataset) -> list[list[int]]:
        return allocate_batches(data["length"][:], self.setting.token_budget, max_batch_size=self.setting.batch)

    def _config(self, name: str, precision: str = "float32") -> IndexConfig:
        config = IndexConfig(
            run_path=str(self.directory / name),
            model=str(self.directory),
            precision=PRECISIONS[precision],
            include_bias=True,
            token_batch_size=self.setting.token_budget,
        )
        self._emptied(config.partial_run_path)
        return config

    def _folder(self, name: str) -> Path:
        return self.directory / f"{name}.part"

    def _applied(self, count: int, labels: str) -> Path:
        return self.directory / f"bergson-applied-{count}-{labels}"

    def _emptied(self, path: Path) -> Path:
        shutil.rmtree(path, ignore_errors=True)
        path.mkdir(parents=True)
        return path


def _dataset(sequences: list[Sequence]) -> Dataset:
    return Dataset.from_dict(
        {
            "input_ids": [list(sequence.token_ids) for sequence in sequences],
            "labels": [
                [IGNORED] * sequence.loss_start + list(sequence.token_ids[sequence.loss_start :])
                for sequence in sequences
            ],
            "length": [len(sequence) for sequence in sequences],
        }
    )
