"""Scores of the sampled documents for all queries under one setting after the other, and the time of each pass."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING

import numpy as np

from assets.corpus.document_sample import stored_sample
from assets.curvature.factors import document_tokens, stored_curvature
from assets.curvature.sample import sample_sequences, typical_tokens
from assets.findings.ablation.blocks import block_curvature
from assets.findings.ablation.costs import GRADIENT_BYTES, LONG_SECONDS, REPETITIONS, study_ablation_cost
from assets.findings.ablation.sample import ablation_sample_table
from assets.findings.ablation.variants import Variant
from assets.model.memory import refuse_beyond_memory, refuse_bound_beyond_gpu
from assets.model.opening import open_traced_models
from assets.study.completions import completions_table, query_sequences
from assets.study.influence import pass_over_documents
from assets.study.query_gradients import agreement_sample

if TYPE_CHECKING:
    from assets.specs.study import Study
    from assets.step.step import Step
    from assets.tracking.progress import Progress
    from compute.curvature import Curvature
    from compute.factor_memory import Residence
    from compute.influence import InfluencePass
    from compute.tracked_modules import TrackedModule


@dataclass(frozen=True)
class Scored:
    """Scores Q×D under one setting; `seconds` of the passes over the documents for all queries: the processor's on a
    CPU, where other work would lengthen the clock's, and the clock's elsewhere."""

    scores_QD: np.ndarray
    seconds: float


@dataclass(frozen=True)
class _Models:
    """A study's model in one precision, and the one that queries pass through (mostly the same)."""

    dtype: str
    model: object
    query_model: object
    modules: tuple[TrackedModule, ...]


class Scoring:
    """Keeps the model and the curvature of the last setting for the next one."""

    def __init__(self, step: Step, study: Study) -> None:
        self.step, self.study = step, study
        self.documents = stored_sample(step, ablation_sample_table(study.name))
        self.queries = query_sequences(step.scan(completions_table(study.name)).sort("position").collect().to_dicts())
        self.typical = typical_tokens(step, study.spec.curvature.name)
        self._models: _Models | None = None
        self._curvature: tuple[tuple[str, int], Curvature] | None = None

    @property
    def query_ids(self) -> list[str]:
        """In the order of the scores' rows."""
        return [query.key for query in self.queries]

    def scored(self, variant: Variant, progress: Progress) -> Scored:
        """The full-rank gradients of many queries do not fit into memory: then a group after the other is scored."""
        models = self._models_in(variant.dtype)
        parts, seconds = [], 0.0
        for group in _groups(self._gradients(variant, models, progress), GRADIENT_BYTES):
            directed = [(variant.method, each) for each in group]
            influence_pass = pass_over_documents(
                self.study, models.model, models.modules, directed, self.typical, None, variant.products
            )
            progress.total += len(self.documents) if parts else 0
            found, taken = self._timed(influence_pass, _clock(models.model), progress)
            parts.append(found)
            seconds += taken
        return Scored(np.concatenate(parts), seconds)

    def _timed(
        self, influence_pass: InfluencePass, clock: Callable[[], float], progress: Progress
    ) -> tuple[np.ndarray, float]:
        """A short pass is repeated, since the first one warms up; the shortest counts."""
        least = float("inf")
        for repetition in range(REPETITIONS):
            on_batch = None if repetition else lambda count, _: progress.advance(count)
            started = clock()
            found = influence_pass.score(self.documents, on_batch=on_batch)
            least = min(least, clock() - started)
            if least > LONG_SECONDS:
                break
        return found.scores_QD, least

    def _gradients(self, variant: Variant, models: _Models, progress: Progress) -> Iterator[dict]:
        from compute.query_gradients import query_gradients

        rank = variant.rank if isinstance(variant.rank, int) else None
        auto, sample = variant.rank == "auto", None
        if auto:
            sample = agreement_sample(self.step, self.study, models.model, models.modules)
        found = query_gradients(
            models.query_model,
            models.modules,
            self.queries,
            self._curvature_of(variant, models, progress),
            rank=rank,
            agreement=self.study.spec.options.agreement if auto else None,
            sample=sample,
            methods=(variant.method,),
            queries_at_once=self._residence(models, variant.blocks, measured=sample is not None).queries_at_once,
        )
        return (gradients for _, _, gradients in found)

    def _models_in(self, dtype: str) -> _Models:
        if self._models is None or self._models.dtype != dtype:
            self._models = self._curvature = None  # let go before the next is loaded
            study = in_precision(self.study, dtype)
            model, asked, modules = open_traced_models(self.step, study)
            self._refuse_beyond_memory(study, model, modules)
            self._models = _Models(dtype, model, asked, modules)
        return self._models

    def _refuse_beyond_memory(self, study: Study, model, modules: tuple[TrackedModule, ...]) -> None:
        """Raises BadInput where the settings in this precision need more than is there."""
        dtype, tokens = study.spec.model.dtype, max(map(len, self.documents), default=2)
        sizes = {"documents": len(self.documents), "tokens": tokens, "queries": len(self.queries)}
        refuse_beyond_memory(
            study, "ablation", model, modules, of_stage=partial(study_ablation_cost, self.study, dtype=dtype), **sizes
        )
        refuse_bound_beyond_gpu(study, "ablation", model)

    def _curvature_of(self, variant: Variant, models: _Models, progress: Progress) -> Curvature:
        key = (variant.dtype, variant.blocks)
        if self._curvature is None or self._curvature[0] != key:
            self._curvature = None
            self._curvature = key, self._fitted_in(variant.blocks, models, progress)
        return self._curvature[1]

    def _fitted_in(self, blocks: int, models: _Models, progress: Progress) -> Curvature:
        if blocks > 1:
            sample = sample_sequences(self.step, self.study.spec.curvature.name)
            progress.total += len(sample)
            settings = {"on_batch": lambda count, _: progress.advance(count)}
            return block_curvature(self.step, self.study, models.model, models.modules, sample, blocks, **settings)
        keeps_all = self._residence(models, blocks).keeps_all
        curvature = stored_curvature(self.step, self.study, models.model, models.modules, keeps_all=keeps_all)
        return replace(curvature, document_tokens=document_tokens(self.step, self.study.spec.curvature.name))

    def _residence(self, models: _Models, blocks: int, *, measured: bool = False) -> Residence:
        """What is held of the stored factors at once; those in blocks are stored nowhere, so all of them."""
        from compute.factor_memory import gradient_copies, residence

        stored, memory = self.study.spec.curvature.blocks, self.study.spec.options.memory_bytes
        copies = gradient_copies(1, agreement=True)
        settings = {"keeps_all": blocks > 1, "measured": int(measured), "double": models.dtype == "float64"}
        return residence(models.modules, stored * blocks, memory, copies, **settings)


def in_precision(study: Study, dtype: str) -> Study:
    """The study with its models in this precision."""
    named = {name: getattr(study.spec, name) for name in ("model", "query_model")}
    models = {name: model.model_copy(update={"dtype": dtype}) for name, model in named.items() if model}
    return replace(study, spec=study.spec.model_copy(update=models))


def _clock(model) -> Callable[[], float]:
    from compute.devices import input_device

    return time.process_time if input_device(model).type == "cpu" else time.perf_counter


def _groups(gradients: Iterable[dict], budget: int) -> Iterator[Sequence[dict]]:
    """Queries' gradients, as many at a time as the bytes allow, and one at least."""
    group: list[dict] = []
    held = 0
    for of_query in gradients:
        group.append(of_query)
        held += sum(each.bytes for each in of_query.values())
        if held >= budget:
            yield group
            group, held = [], 0
    if group:
        yield group
