"""Whether a model fits what it is to read, to be compared with and to be traced by: context length, architecture,
methods."""

from __future__ import annotations

from typing import TYPE_CHECKING

from assets.specs.study import Study
from compute.errors import BadInput
from compute.methods import refines

if TYPE_CHECKING:
    from collections.abc import Iterable

    from compute.tracked_modules import TrackedModule


def check_context(study: Study, skeleton) -> None:
    """Raises BadInput where documents are longer than the model's context or a batch's budget."""
    from compute.checkpoint import context_length

    corpus, name, context = study.spec.corpus, study.spec.model.name, context_length(skeleton)
    if context and corpus.max_tokens > context:
        raise BadInput(
            f"corpus {corpus.name}: max_tokens is {corpus.max_tokens}, but model {name} has a context of {context} "
            "tokens; lower max_tokens"
        )
    for owner, budget in (
        ("options", study.spec.options.token_budget),
        ("curvature", study.spec.curvature.token_budget),
    ):
        if budget < corpus.max_tokens:
            raise BadInput(
                f"{owner}.token_budget: {budget} is less than one document of {corpus.max_tokens} tokens; raise it"
            )


def check_refinement(study: Study, modules: Iterable[TrackedModule]) -> None:
    """Raises BadInput where a method refines gradients, and the model's cannot be refined."""
    if not refines(study.spec.options.methods):
        return
    for module in modules:
        if module.expert:
            raise BadInput(f"options.methods: astra cannot refine routed experts ({module.name}); leave it out")
    if study.spec.model.dtype == "float16":  # of small inputs layer_norm then has no finite forward derivative
        raise BadInput(
            "model.dtype: float16 is too narrow for the derivatives that astra takes; write bfloat16 or float32, or "
            "leave astra out of options.methods"
        )


def check_architecture(study: Study, query_model, model) -> None:
    """Raises BadInput where the query-side model's weights are not named and shaped as the model's are."""
    from compute.checkpoint import same_architecture

    if not same_architecture(query_model, model):
        raise BadInput(
            f"query_model {study.spec.query_model.name}: its weights have other names or shapes than those of model "
            f"{study.spec.model.name}; give a checkpoint of the same architecture"
        )


def check_query_length(
    location: str, query_id: str, tokens: tuple[list[int], list[int]], context: int, model: str
) -> None:
    """Raises BadInput where prompt and completion (at least one token) do not fit into the model's context."""
    prompt_ids, completion_ids = tokens
    if len(prompt_ids) + max(1, len(completion_ids)) > context:
        what = "prompt and completion have" if completion_ids else "prompt has"
        raise BadInput(
            f"{location}: query {query_id}'s {what} {len(prompt_ids) + len(completion_ids)} tokens, too many for the "
            f"context of {context} tokens of model {model}; shorten it"
        )
