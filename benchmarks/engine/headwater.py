"""Headwater's stages, as its assets call them."""

from __future__ import annotations

from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from benchmarks.engine.contender import Contender
from compute.checkpoint import DTYPES
from compute.covariances import fit_covariances
from compute.curvature import Curvature
from compute.eigenbasis import ModuleEigenbasis, decompose
from compute.eigenvalues import fit_eigenvalues
from compute.influence import InfluencePass
from compute.low_rank import LowRankGradient
from compute.query_gradients import query_gradients
from compute.tracked_modules import TrackedModule, select_modules

AUTO, AGREEMENT = "auto", 0.995


class Headwater(Contender):
    def factors(self, labels: str = "sampled", precision: str = "float32") -> None:
        model = self.model(precision)
        modules = self._modules(precision)
        settings = {"labels": labels, "seed": 0, "token_budget": self.setting.our_token_budget}
        with self.timed("covariances"):
            covariances = fit_covariances(model, modules, self.documents, **settings)
        with self.timed("decomposition"):
            basis = decompose(covariances)
        with self.timed("eigenvalues"):
            eigenvalues = fit_eigenvalues(model, modules, basis, self.documents, **settings)
        tensors = {f"{name}|eigenvalues": value for name, value in eigenvalues.items()}
        for name, parts in basis.items():
            tensors |= {f"{name}|{part}": value for part, value in vars(parts).items()}
        _save(tensors, self.directory / f"headwater-factors-{labels}.safetensors")

    def query_gradients(self, count: int, rank: int | str | None, labels: str = "sampled") -> None:
        """The first `count` queries' preconditioned gradients, kept in a file for every precision to score with.

        `rank` auto is chosen per query and module, by a study's own default of `agreement`.
        """
        chosen = {"agreement": AGREEMENT} if rank == AUTO else {"rank": rank}
        curvature = self._curvature(labels)
        queries, modules = self.queries[:count], self._modules("float32")
        with self.timed("query gradients"):
            found = query_gradients(self.model(), modules, queries, curvature, **chosen, methods=("ekfac",))
            gradients = [factors for _, _, factors in found]
        tensors = {
            f"{number}|{name}|{side}": value
            for number, factors in enumerate(gradients)
            for name, factor in factors.items()
            for side, value in vars(factor).items()
        }
        _save(tensors, self._gradients_file(count, rank, labels))

    def scores(self, count: int, rank: int | str | None, precision: str = "float32", labels: str = "sampled") -> Tensor:
        """The pass over the documents, and the laying out of the queries for it. It gives the document norms too."""
        gradients = self._gradients(count, rank, labels)
        with self.timed("scores"):
            influence_pass = InfluencePass(
                self.model(precision),
                self._modules(precision),
                gradients,
                typical_tokens=self.setting.tokens,
                token_budget=self.setting.our_token_budget,
                memory_bytes=self.setting.memory_mib * 2**20,
                products=DTYPES[precision],
            )
            scores = influence_pass.score(self.documents)
        return torch.from_numpy(scores.scores_QD)

    def _modules(self, precision: str) -> tuple[TrackedModule, ...]:
        return select_modules(self.model(precision), "mlp")

    def _curvature(self, labels: str) -> Curvature:
        tensors = load_file(self.directory / f"headwater-factors-{labels}.safetensors")
        parts = ModuleEigenbasis.__dataclass_fields__
        names = [module.name for module in self._modules("float32")]
        basis = {name: ModuleEigenbasis(**{part: tensors[f"{name}|{part}"] for part in parts}) for name in names}
        return Curvature(basis, {name: tensors[f"{name}|eigenvalues"] for name in names})

    def _gradients(self, count: int, rank: int | str | None, labels: str) -> list[dict[str, LowRankGradient]]:
        tensors = load_file(self._gradients_file(count, rank, labels))
        found: list[dict[str, LowRankGradient]] = [{} for _ in range(count)]
        for key in sorted({key.rpartition("|")[0] for key in tensors}):
            number, name = key.split("|")
            found[int(number)][name] = LowRankGradient(tensors[f"{key}|left_OR"], tensors[f"{key}|right_IR"])
        return found

    def _gradients_file(self, count: int, rank: int | str | None, labels: str) -> Path:
        return self.directory / f"headwater-queries-{count}-rank-{rank or 'full'}-{labels}.safetensors"


def _save(tensors: dict[str, Tensor], path: Path) -> None:
    save_file({name: value.clone(memory_format=torch.contiguous_format) for name, value in tensors.items()}, path)
