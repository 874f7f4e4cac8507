"""Whether a step's memory is there, looked at on a CPU before its work: what has to be killed there took hours first.

A GPU that runs out of memory says so, and the batch is halved (`compute/passes.py`); a CPU's process is killed. A
query's gradient cannot be halved, so it is looked at on both.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import dagster as dg

from assets.tracking.progress import note
from compute.errors import BadInput

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from assets.specs.study import Study
    from compute.cost import Cost, CostModel, Setting

AUTO_RANK = 32  # where ranks are chosen and have not been yet
ENOUGH = 2**26  # bytes that are not worth a refusal: what Python and libraries take varies by as much
#: What helps, by what takes most of the memory.
REMEDIES = {
    "activations": "lower {budget}, or corpus.max_tokens where it is one document already",
    "logits": "lower {budget}",
    "covariances": "raise curvature.blocks, or give curvature.memory_mib, so that modules are fitted in several passes",
    "products of a batch": "raise curvature.blocks",
    "eigenbasis and eigenvalues": "raise curvature.blocks, or give curvature.memory_mib, so that modules are fitted in "
    "several passes",
    "gradients of some documents": "leave the widest modules out of curvature.modules",
    "decomposition of the largest matrix": "raise curvature.blocks",
    "curvature": "raise curvature.blocks, leave trackstar out of options.methods, which needs all factors at once, or "
    "lower options.memory_mib, so that they are read module by module",
    "eigenbasis": "raise curvature.blocks",
    "eigenvalues": "leave modules out of curvature.modules",
    "vectors of the iteration": "leave modules out of curvature.modules",
    "queries' gradients": "lower options.rank or options.memory_mib, or ask fewer queries",
    "decomposition": "leave the widest modules out of curvature.modules",
    "options.memory_mib": "lower options.memory_mib",
    "sketch": "leave modules out of curvature.modules, or leave options.index out",
    "scores": "lower corpus.shard_records, or ask fewer queries",
    "scores by norm": "lower corpus.shard_records, or ask fewer queries",
    "shards read ahead and written behind": "lower corpus.shard_records",
    "one query's gradient": "leave modules out of curvature.modules, or methods out of options.methods, or spread the "
    "model over more GPUs by model.device_map: auto",
    "full-rank gradients": "leave methods out of options.methods",
    "weights": "give model.device_map: auto, or a narrower model.dtype",
}
TRACED = (
    "covariances",
    "eigenvalues",
    "refined_gradients",
    "query_gradients",
    "influence",
    "rankings",
    "document_index",
    "index_statistics",
)
HELD_WHOLE = ("query_gradients", "rankings")  # stages of one query's full gradients at least
FITTED = ("covariances", "eigenvalues")  # stages whose batches are of curvature.token_budget


def cost_setting(
    study: Study,
    *,
    documents: int,
    tokens: int,
    queries: int = 1,
    query_tokens: int = 2,
    generated: int = 0,
    new_tokens: int = 1,
    shard_documents: int = 0,
    rank: float | None = None,
    logits_at_once: int,
) -> Setting:
    """How much there is to do, with the study's settings; `rank` is the mean of ranks that were chosen."""
    from compute.cost import Setting
    from compute.exact_scores import DENSE_BYTES
    from compute.methods import known_method, metrics_of, refines, whitens

    options, fit = study.spec.options, study.spec.curvature
    chosen = round(rank) if rank else AUTO_RANK
    plain = [method for method in options.methods if not known_method(method).refined]
    metrics = metrics_of(plain)
    return Setting(
        documents=documents,
        tokens=tokens,
        sample_documents=min(fit.sample_documents, documents),
        queries=queries,
        query_tokens=query_tokens,
        generated=generated,
        new_tokens=new_tokens,
        methods=len(options.methods),
        metrics=len(metrics) + len(options.methods) - len(plain),
        turned=sum(metric != "plain" for metric in metrics),
        whitens=whitens(options.methods),
        refined_passes=options.refinement.passes if refines(options.methods) else 0,
        refined_documents=min(options.refinement.documents, fit.sample_documents, documents),
        rank=chosen if options.rank == "auto" else options.kept_rank,
        agreement=options.rank == "auto",
        top_k=options.top_k,
        token_budget=options.token_budget,
        fit_token_budget=fit.token_budget,
        memory_bytes=options.memory_bytes,
        exact_bytes=DENSE_BYTES,
        logits_at_once=logits_at_once,
        dtype=study.spec.model.dtype,
        products=options.products,
        blocks=fit.blocks,
        fit_memory_bytes=fit.memory_bytes,
        agreement_documents=min(options.agreement_documents, fit.sample_documents, documents),
        index_dimensions=options.index.dimensions if options.index else None,
        index_candidates=options.index.candidates if options.index else 0,
        shard_documents=shard_documents,
    )


def refuse_beyond_memory(
    study: Study,
    stage: str,
    model,
    modules,
    *,
    of_stage: Callable[[CostModel], Cost] | None = None,
    beside: Mapping[str, float] | None = None,
    **sizes,
) -> None:
    """Raises BadInput where a stage (by the name of its asset) needs more than is there next to the loaded model.

    `sizes` as `cost_setting` takes them; `of_stage` tells the cost of a stage that the cost model itself does not have;
    `beside` has bytes of what is not the model's, by what takes them. On GPUs, where a batch that does not fit is
    halved, it is one query's gradient alone: that is held whole, on the devices of its modules.
    """
    from compute.checkpoint import skeleton_of
    from compute.devices import input_device

    is_cpu = input_device(model).type == "cpu"
    if not is_cpu and stage not in HELD_WHOLE:
        return
    costs = _cost_model(study, skeleton_of(model), modules, sizes)
    if is_cpu:
        parts = (of_stage(costs) if of_stage else costs.stage(stage)).memory | (beside or {})
        refuse_parts(study, stage, {what: needed for what, needed in parts.items() if what != "weights"})
    else:
        refuse_parts(study, stage, {"one query's gradient": costs.bytes_of_query()[stage]}, there=free_on_gpus(model))


def free_on_gpus(model) -> int:
    """Bytes that are free on the GPUs that hold the model, together."""
    from compute.devices import free_memory

    return sum(map(free_memory, {weight.device for weight in model.parameters() if weight.device.type == "cuda"}))


def gradient_beyond(study: Study, stage: str, needed: int) -> str | None:
    """What is to be said where one query's gradients take more than the memory for gradients."""
    options = study.spec.options
    if (beyond := needed - options.memory_bytes) <= 0:
        return None
    return (
        f"{stage} holds {mib(needed)} for one query's full gradients, {mib(beyond)} beyond options.memory_mib "
        f"({options.memory_mib}): they are whole, however little that is"
    )


def refuse_study_beyond_memory(study: Study, skeleton, modules, **sizes) -> None:
    """The same of all stages, before anything is loaded: of the weights too, unless they are spread over devices. On a
    GPU of these and options.memory_mib alone."""
    from compute.checkpoint import best_device
    from compute.machine import gpu_memory

    costs = _cost_model(study, skeleton, modules, sizes)
    if best_device() != "cpu":
        parts = {"weights": costs.stage("influence").memory["weights"]} | _bound(study)
        # The whole: what another run has taken of it is free again when this one begins.
        _refuse_with_weights(study, "influence", parts, there=gpu_memory())
        return
    for stage in TRACED:
        if stage in costs.asked:
            _refuse_with_weights(study, stage, costs.stage(stage).memory)


def refuse_stage_beyond_memory(
    study: Study, stage: str, of_stage: Callable[[CostModel], Cost], skeleton, modules, **sizes
) -> None:
    """The same of a stage that the cost model itself does not have."""
    from compute.checkpoint import best_device

    if best_device() == "cpu":
        _refuse_with_weights(study, stage, of_stage(_cost_model(study, skeleton, modules, sizes)).memory)


def refuse_weights_beyond_gpu(study: Study, stage: str, dtype: str, skeleton) -> None:
    """Raises BadInput where a GPU has no room for the weights in a dtype that the study itself does not load them in;
    all else that does not fit there halves a batch, and weights do not."""
    from compute.checkpoint import best_device, weight_bytes
    from compute.machine import gpu_memory

    if best_device() == "cpu" or study.spec.model.device_map or study.spec.model.dtype == dtype:
        return
    models = 2 if study.spec.query_model else 1  # both are there at a time
    needed, there = models * weight_bytes(skeleton, dtype), gpu_memory()
    if needed > there:
        raise BadInput(
            f"study {study.name}: {stage} needs the model in {dtype}, whose weights take {mib(needed)}, and the GPU "
            f"has {mib(there)}; give model.device_map: auto"
        )


def refuse_bound_beyond_gpu(study: Study, stage: str, model) -> None:
    """Raises BadInput where what a stage may keep of gradients, options.memory_mib, is more than a GPU has free next to
    the loaded model: it is laid out before the first batch, and no halving lowers it."""
    from compute.devices import free_memory, input_device

    if (device := input_device(model)).type == "cuda":
        refuse_parts(study, stage, _bound(study), there=free_memory(device))


def _bound(study: Study) -> dict[str, float]:
    return {"options.memory_mib": study.spec.options.memory_bytes}


def _refuse_with_weights(study: Study, stage: str, memory: Mapping[str, float], there: int | None = None) -> None:
    parts = dict(memory)
    if study.spec.model.device_map:
        del parts["weights"]
    refuse_parts(study, stage, parts, there=there)


def _cost_model(study: Study, skeleton, modules, sizes: dict) -> CostModel:
    from compute.architecture import architecture_of
    from compute.cost import CostModel
    from compute.token_loss import LOGITS_AT_ONCE

    setting = cost_setting(study, logits_at_once=LOGITS_AT_ONCE, **sizes)
    return CostModel(architecture_of(skeleton, modules), setting)


def refuse_parts(study: Study, stage: str, parts: Mapping[str, float], *, there: int | None = None) -> None:
    """Raises BadInput where the parts, bytes by what takes them, are more than is there (None: of the CPU's memory);
    with `options.memory_check: warn` it is a warning."""
    from compute.available_memory import available_memory

    needed, there = sum(parts.values()), available_memory() if there is None else there
    if needed <= max(there, ENOUGH):
        return
    largest = max(parts, key=parts.__getitem__)
    budget = "curvature.token_budget" if stage in FITTED else "options.token_budget"
    told = ", ".join(f"{what} {mib(size)}" for what, size in parts.items() if size >= needed / 20)
    sentence = (
        f"study {study.name}: {stage} needs about {mib(needed)} of memory ({told}), and {mib(there)} are there; "
        f"{REMEDIES[largest].format(budget=budget)}"
    )
    if study.spec.options.memory_check == "refuse":
        raise BadInput(f"{sentence}; options.memory_check: warn tries all the same")
    _warn(f"{sentence}; it goes on, as options.memory_check says")


def _warn(sentence: str) -> None:
    """On the terminal, and in the log of a run where there is one."""
    note(sentence)
    if (log := dg.get_dagster_logger("headwater")).hasHandlers():
        log.warning(sentence)


def mib(size: float) -> str:
    return f"{size / 2**20:,.0f} MiB"
