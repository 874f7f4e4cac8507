"""Opening a study's model for tracing: weights, tracked modules, and whether the tokenizer is its own."""

from __future__ import annotations

from assets.corpus.tokenizer import foreign_tokenizer, stored_tokenizer
from assets.model.checkpoint import load_checkpoint
from assets.model.fit import check_architecture, check_context
from assets.model.settings import check_settings
from assets.specs.model import ModelSpec
from assets.specs.study import Study
from assets.step.reading import Reading
from compute.errors import BadInput


def open_traced_model(step: Reading, study: Study, *, query_side: bool = False, device: str | None = None):
    """The model (the query-side one on request, where the study names it) and its tracked modules; raises as below."""
    _, asked, modules = open_traced_models(step, study, query_side=query_side, device=device)
    return asked, modules


def open_traced_models(step: Reading, study: Study, *, query_side: bool = True, device: str | None = None):
    """The model that documents pass through, the one that queries pass through (mostly the same), and their tracked
    modules.

    Raises BadInput for an unknown module pattern, modules that cannot be cut into the fit's diagonal blocks, a rank or
    a precision that cannot be had, a tokenizer that does not fit, documents longer than the model's context, or a
    query-side model of another architecture.
    """
    from compute.block_diagonal import check_blocks
    from compute.devices import input_device
    from compute.tracked_modules import select_modules

    model = load_checkpoint(study.spec.model, study.base, step, device=device)
    _check_fit(step, study, model)
    modules = select_modules(model, study.spec.curvature.modules)
    check_blocks(modules, study.spec.curvature.blocks)
    check_settings(study, modules, input_device(model).type)
    apart = query_side and study.spec.query_model
    return model, _open_query_model(step, study, model) if apart else model, modules


def _check_fit(step: Reading, study: Study, model) -> None:
    from compute.checkpoint import check_vocabulary

    tokenizer, _ = stored_tokenizer(step, study.spec.corpus.name)
    check_vocabulary(model, len(tokenizer), study.spec.model.name)
    if not study.spec.model.train:
        _check_own_tokenizer(step, study, study.spec.model)
    check_context(study, model)


def _open_query_model(step: Reading, study: Study, base_model):
    query_model = study.spec.query_model
    model = load_checkpoint(query_model, study.base)
    check_architecture(study, model, base_model)
    _check_own_tokenizer(step, study, query_model)
    return model


def _check_own_tokenizer(step: Reading, study: Study, model: ModelSpec) -> None:
    if problem := foreign_tokenizer(step, study, model):
        raise BadInput(problem)
