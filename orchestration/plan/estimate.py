"""The plan of a study: what each stage costs, and what it took when it ran here before."""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING

from assets.findings.ablation.costs import study_ablation_cost
from assets.findings.ablation.unasked import is_unasked, what_is_compared
from assets.model.memory import AUTO_RANK, cost_setting
from compute.errors import BadInput
from orchestration.plan.recorded import History, Recorded, history
from orchestration.plan.sizes import Corpus, Queries, changed, corpus_sizes, query_sizes
from orchestration.preflight import fitting_modules, study_skeleton
from orchestration.resources import resources_of

if TYPE_CHECKING:
    from assets.specs.study import Study
    from compute.architecture import Architecture
    from compute.cost import Cost, Setting
    from compute.hardware import Hardware
    from orchestration.home import Home

STEP_SECONDS = 0.5  # of every step: opening tables and the model, checks, tracking
TRAINED_BYTES = 16  # per weight: itself, its gradient and AdamW's two moments, in float32


@dataclass(frozen=True)
class Comparison:
    """What a stage took, next to the estimate for the same work on the `hardware` that it ran on; None where that was
    not recorded, or nothing is known of its speed."""

    recorded: Recorded
    hardware: str | None
    estimated_seconds: float | None
    estimated_lake_bytes: float

    @property
    def ratio(self) -> float | None:
        if self.estimated_seconds is None:
            return None
        return self.estimated_seconds / max(self.recorded.seconds, 1e-3)


@dataclass(frozen=True)
class Stage:
    """One stage of the plan. `seconds_by` names what takes the time."""

    name: str
    cost: Cost
    seconds_by: dict[str, float]
    comparison: Comparison | None = None

    @property
    def seconds(self) -> float:
        return sum(self.seconds_by.values())


@dataclass(frozen=True)
class Plan:
    """All stages in their order. `training_operations` and `training_seconds` are of one training pass; `unasked` tells
    of an ablation that the study has without asking."""

    study: str
    hardware: Hardware
    corpus: Corpus
    queries: Queries
    architecture: Architecture
    setting: Setting
    rank_origin: str
    stages: tuple[Stage, ...]
    training_operations: float
    training_seconds: float
    why_dagster: str
    unasked: str

    @property
    def operations(self) -> float:
        return sum(stage.cost.total for stage in self.stages)

    @property
    def seconds(self) -> float:
        return sum(stage.seconds for stage in self.stages)

    @property
    def slowest(self) -> Stage:
        return max(self.stages, key=lambda stage: stage.seconds)

    @property
    def largest(self) -> Stage:
        """By memory of the device."""
        return max(self.stages, key=lambda stage: stage.cost.memory_bytes)

    @property
    def does_not_fit(self) -> tuple[Stage, ...]:
        return tuple(stage for stage in self.stages if stage.cost.memory_bytes > self.hardware.memory)


def plan_study(
    study: Study,
    home: Home,
    *,
    hardware: str | None = None,
    documents: int | None = None,
    tokens: int | None = None,
    queries: int | None = None,
) -> Plan:
    """Raises BadInput for hardware that is not known, for files, checkpoints or modules that cannot be read, and for
    settings that do not fit the model."""
    from compute.architecture import architecture_of
    from compute.checkpoint import context_length
    from compute.cost import CostModel
    from compute.hardware import hardware_named

    skeleton = study_skeleton(study)
    architecture = architecture_of(skeleton, fitting_modules(study, skeleton))
    lake = resources_of(home)["lake"]
    corpus, asked = corpus_sizes(study, lake), query_sizes(study, lake)
    past, device = history(study, home, corpus.documents), hardware_named(hardware, _dtypes(study))
    as_it_is = CostModel(architecture, _setting(study, corpus, asked, past.rank, device))
    compared = _comparisons(study, as_it_is, device, past)
    corpus, asked = changed(
        corpus,
        asked,
        documents=documents,
        tokens=tokens,
        count=queries,
        shard_records=study.spec.corpus.shard_records,
    )
    _check_tokens(study, corpus.tokens, context_length(skeleton))
    model = replace(as_it_is, setting=_setting(study, corpus, asked, past.rank, device))
    training = _training_pass(model)
    return Plan(
        study.name,
        device,
        corpus,
        asked,
        architecture,
        model.setting,
        _rank_origin(study, past.rank),
        tuple(_stages(study, model, device, compared)),
        training.total,
        _seconds(device, training),
        past.why_dagster,
        what_is_compared(study) if is_unasked(study) else "",
    )


def _check_tokens(study: Study, tokens: int, context: int | None) -> None:
    """Raises BadInput for documents of so many tokens that the model or a batch could not hold one."""
    if context and tokens > context:
        raise BadInput(
            f"--tokens: {tokens} is above the context of {context} tokens of model {study.spec.model.name}; plan with "
            "fewer"
        )
    for owner, budget in (
        ("options", study.spec.options.token_budget),
        ("curvature", study.spec.curvature.token_budget),
    ):
        if tokens > budget:
            raise BadInput(
                f"{owner}.token_budget: {budget} is below a document of {tokens} tokens; raise it, or plan with fewer "
                "--tokens"
            )


def _dtypes(study: Study) -> tuple[str, ...]:
    """In which the study multiplies, next to float32 and float64."""
    ablation = study.spec.ablation
    return (study.spec.model.dtype, study.spec.options.products, *(ablation.precisions if ablation else ()))


def _setting(study: Study, corpus: Corpus, queries: Queries, rank: float | None, device: Hardware) -> Setting:
    return cost_setting(
        study,
        documents=corpus.documents,
        tokens=corpus.tokens,
        queries=queries.queries,
        query_tokens=queries.tokens,
        generated=queries.generated,
        new_tokens=queries.new_tokens,
        shard_documents=math.ceil(corpus.documents / corpus.shards),
        rank=rank,
        logits_at_once=device.logits_at_once,
    )


def _rank_origin(study: Study, rank: float | None) -> str:
    if study.spec.options.rank != "auto":
        return "options.rank"
    return "the mean of the last run" if rank else f"options.rank is auto: taken as {AUTO_RANK}"


def _stages(study: Study, model, device: Hardware, compared: dict[str, Comparison]):
    costs = _costs(study, model, device)
    if study.spec.model.train:
        yield _training_stage(study, model, device)
    for name, cost in costs.items():
        yield Stage(name, cost, _parts(device, cost), compared.get(name))


def _costs(study: Study, model, device: Hardware) -> dict[str, Cost]:
    """Of all stages that the study asks for, by the name of their asset."""
    if study.spec.ablation is None:
        return model.stages()
    return model.stages() | {"ablation": study_ablation_cost(study, model, seconds=partial(_seconds, device))}


def _training_stage(study: Study, model, device: Hardware) -> Stage:
    """The model's own training, no longer than it may take."""
    from compute.cost import Cost

    spec, once = study.spec.model.train, _training_pass(model)
    memory = {"weights and optimizer": TRAINED_BYTES * model.architecture.parameters}
    cost = Cost(Counter({"float32": spec.epochs * once.total}), memory, 4 * model.architecture.parameters)
    parts = _parts(device, cost)
    if spec.max_minutes and sum(parts.values()) > 60 * spec.max_minutes:
        parts = {"model.train.max_minutes": 60 * spec.max_minutes}
    return Stage("checkpoint", cost, parts)


def _training_pass(model) -> Cost:
    from compute.cost import Cost

    return Cost(Counter({model.setting.dtype: model.training_pass()}))


def _comparisons(study: Study, model, device: Hardware, past: History) -> dict[str, Comparison]:
    """For the work that was done, of influence the documents that were scored, on the hardware that it was done on."""
    from compute.hardware import hardware_of

    machines = dict.fromkeys(each.machine for each in past.stages.values())
    found = {}
    for machine in machines:
        hardware = hardware_of(machine, device, _dtypes(study)) if machine else None
        for name, cost in _costs(study, model, hardware or device).items():
            if name in past.stages and past.stages[name].machine == machine:
                found[name] = _comparison(cost, model.setting.documents, hardware, past.stages[name])
    return found


def _comparison(cost: Cost, documents: int, hardware: Hardware | None, recorded: Recorded) -> Comparison:
    done = cost if recorded.documents is None else cost.share(recorded.documents / documents)
    estimated = sum(_parts(hardware, done).values()) if hardware else None
    return Comparison(recorded, hardware.name if hardware else None, estimated, done.lake_bytes)


def _parts(device: Hardware, cost: Cost) -> dict[str, float]:
    return device.seconds(cost) | {"the step itself": STEP_SECONDS}


def _seconds(device: Hardware, cost: Cost) -> float:
    return sum(device.seconds(cost).values())
