"""What the ablation of a study costs: told by its plan, and looked at before its work on a CPU."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING

from assets.findings.ablation.unasked import told_how_to_do_without
from assets.findings.ablation.variants import FLOAT32, variants_of
from assets.model.memory import refuse_stage_beyond_memory, refuse_weights_beyond_gpu

if TYPE_CHECKING:
    from assets.specs.study import Study
    from compute.ablation_cost import ComparedSetting
    from compute.cost import Cost, CostModel, Setting
    from compute.tracked_modules import TrackedModule

GRADIENT_BYTES = 2**30  # of queries that are scored in one pass
REPETITIONS, LONG_SECONDS = 3, 20.0
"""How often a pass is timed, and after which time once is enough: one of some seconds varies by a quarter."""


def study_ablation_cost(
    study: Study, costs: CostModel, *, seconds: Callable[[Cost], float] | None = None, dtype: str | None = None
) -> Cost:
    """Of all settings, or of those whose model is of one `dtype`; `seconds` tells how long a pass of such a cost takes,
    and so how often it is timed (left out: once, which does not change the memory)."""
    from compute.ablation_cost import ablation_cost

    return ablation_cost(
        costs,
        _compared(study, costs.setting, dtype),
        documents=study.spec.ablation.documents,
        gradient_bytes=GRADIENT_BYTES,
        repetitions=lambda once: REPETITIONS if seconds and seconds(once) <= LONG_SECONDS else 1,
    )


def check_ablation_budgets(study: Study, setting: Setting, modules: Sequence[TrackedModule]) -> None:
    """Raises BadInput for a budget of memory into which a module does not fit in one of the settings."""
    from compute.ablation_cost import check_compared_budgets

    documents = study.spec.ablation.documents
    with told_how_to_do_without(study):
        check_compared_budgets(setting, _compared(study, setting), modules, documents=documents)


def check_ablation_memory(study: Study, skeleton, modules: Sequence[TrackedModule], **sizes: int) -> None:
    """Raises BadInput where a CPU has no room for one of the settings, or a GPU for the weights of the reference."""
    with told_how_to_do_without(study):
        refuse_stage_beyond_memory(study, "ablation", partial(study_ablation_cost, study), skeleton, modules, **sizes)
        refuse_weights_beyond_gpu(study, "ablation", FLOAT32, skeleton)


def _compared(study: Study, setting: Setting, dtype: str | None = None) -> list[ComparedSetting]:
    from compute.ablation_cost import ComparedSetting

    chosen = setting.rank  # what ranks are taken to be, where they are chosen
    return [
        ComparedSetting(
            rank={"full": None, "auto": chosen}.get(each.rank, each.rank),
            agreement=each.rank == "auto",
            products=each.products,
            dtype=each.dtype,
            cut=each.blocks,
        )
        for each in variants_of(study)
        if dtype in (None, each.dtype)
    ]
