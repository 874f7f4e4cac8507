"""What the ablation costs: each setting that is compared takes queries' gradients and scores a sample of documents, as
a study of that setting would (`compute/cost.py`); those in diagonal blocks of their own are fitted for it.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterator
from collections.abc import Sequence as SequenceOf
from dataclasses import dataclass, replace

from compute.cost import NORM_ROW_BYTES, Cost, CostModel, Setting, check_budgets
from compute.factor_memory import gradient_copies, residence
from compute.tracked_modules import TrackedModule


@dataclass(frozen=True, kw_only=True)
class ComparedSetting:
    """`rank` None: full; `agreement`: it is what chosen ranks are taken to be. `cut`: diagonal blocks into which the
    fit's blocks are cut for this setting; 1: its factors are those of the lake."""

    rank: int | None = None
    agreement: bool = False
    products: str = "float32"
    dtype: str = "float32"
    cut: int = 1


def ablation_cost(
    model: CostModel,
    compared: SequenceOf[ComparedSetting],
    *,
    documents: int,
    gradient_bytes: int,
    repetitions: Callable[[Cost], int],
) -> Cost:
    """Of the settings in the order in which they are compared, on `documents` of the corpus.

    `gradient_bytes` of queries' gradients are scored in one pass, and `repetitions` tells how often a pass of such a
    cost is timed. Memory is that of the worst moment of all settings.
    """
    parts, fitted = [], None
    for each in compared:
        costs = CostModel(model.architecture, _setting(model.setting, each, documents))
        if each.cut > 1 and fitted != (each.dtype, each.cut):
            parts += _fits(costs, each.cut)
        fitted = each.dtype, each.cut
        parts += _scores(costs, each, gradient_bytes, repetitions)
    operations = sum((part.operations for part in parts), Counter())
    worst = max(parts, key=lambda part: part.memory_bytes)
    written = NORM_ROW_BYTES * model.setting.queries * len(compared)
    return Cost(operations, worst.memory, written, sum(part.lake_read for part in parts))


def check_compared_budgets(
    setting: Setting, compared: SequenceOf[ComparedSetting], modules: SequenceOf[TrackedModule], *, documents: int
) -> None:
    """Raises BadInput as `check_budgets` does, for the settings that are compared."""
    for each in compared:
        check_budgets(_setting(setting, each, documents), modules)


def _setting(setting: Setting, compared: ComparedSetting, documents: int) -> Setting:
    documents = min(documents, setting.documents)
    return replace(
        setting,
        documents=documents,
        shard_documents=documents,  # the sample is scored as one
        methods=1,
        metrics=1,
        turned=1,
        whitens=False,
        rank=compared.rank,
        agreement=compared.agreement,
        agreement_documents=setting.agreement_documents if compared.agreement else 0,
        dtype=compared.dtype,
        products=compared.products,
        blocks=setting.blocks * compared.cut,
        fit_memory_bytes=None,
    )


def _fits(costs: CostModel, cut: int) -> tuple[Cost, Cost]:
    """Decompositions of whole covariances that are cut, and Λ in one pass over the fit's sample; nothing is written."""
    eigenbasis, eigenvalues = costs.eigenbasis(), costs.eigenvalues()
    return replace(eigenbasis, lake_read=cut * eigenbasis.lake_read), replace(eigenvalues, lake_read=0)


def _scores(
    costs: CostModel, compared: ComparedSetting, gradient_bytes: int, repetitions: Callable[[Cost], int]
) -> Iterator[Cost]:
    """Queries' gradients, and the passes over the documents, next to the factors that are held all the while."""
    gradients, held = costs.query_gradients(), _held(costs, compared)
    read = gradients.lake_read if compared.cut == 1 else 0
    yield replace(gradients, memory=gradients.memory | ({"curvature": held} if held else {}), lake_read=read)
    for queries in _groups(costs.setting.queries, gradients.lake_bytes, gradient_bytes):
        of_group = CostModel(costs.architecture, replace(costs.setting, queries=queries))
        once = of_group.influence()
        held_gradients = {"queries' gradients": max(once.memory["queries' gradients"], of_group.query_factor_bytes())}
        times = repetitions(once)
        operations = Counter({kind: times * count for kind, count in once.operations.items()})
        yield Cost(operations, once.memory | held_gradients | {"curvature": held})


def _held(costs: CostModel, compared: ComparedSetting) -> float:
    """Bytes of factors that stay from one setting to the next: of all modules, or of none where they do not fit."""
    modules, setting = [each.module for each in costs.architecture.tracked], costs.setting
    copies = gradient_copies(1, agreement=True)
    held = residence(modules, setting.blocks, setting.memory_bytes, copies, keeps_all=compared.cut > 1)
    return costs.curvature_bytes() if held.keeps_all else 0.0


def _groups(queries: int, all_bytes: float, gradient_bytes: int) -> list[int]:
    """How many queries are scored in each pass, where the gradients of all of them take `all_bytes`."""
    at_once = max(1, math.ceil(gradient_bytes * queries / all_bytes))
    return [min(at_once, queries - start) for start in range(0, queries, at_once)]
