"""What can be told before long work starts: files, fields, checkpoint, modules, memory, tokenizer, context lengths."""

from __future__ import annotations

from typing import TYPE_CHECKING

from assets.corpus.preflight import preflight_corpus
from assets.findings.ablation.costs import check_ablation_budgets, check_ablation_memory
from assets.findings.answer_statistics import study_rules
from assets.findings.judge import check_judge
from assets.model.fit import check_architecture, check_context, check_query_length, check_refinement
from assets.model.memory import cost_setting, refuse_study_beyond_memory
from assets.model.settings import check_precisions, check_ranks
from assets.queries.reading import Query, read_queries
from assets.specs.model import ModelSpec
from assets.specs.study import Study
from compute.errors import BadInput

if TYPE_CHECKING:
    from compute.tracked_modules import TrackedModule


def preflight(study: Study) -> None:
    """Raises BadInput for the first mistake that a look at the study's files and configurations can find."""
    from compute.checkpoint import best_device

    preflight_corpus(study.spec.corpus, study.base)
    study_rules(study)
    if study.spec.findings.judge:
        check_judge(study.spec.findings.judge, study.base)
    queries = read_queries(study.spec.queries, study.base)
    skeleton = study_skeleton(study)
    tracked = fitting_modules(study, skeleton)
    check_precisions(study, best_device())
    _check_memory(study, skeleton, tracked, queries)
    if study.spec.query_model:
        _check_same_tokenizer(study)
    if not study.spec.model.train:
        _check_tokenizer(study, skeleton, queries)


def study_skeleton(study: Study):
    """The architecture of the study's model, on the meta device. Raises BadInput for a bad checkpoint."""
    return _trained_skeleton(study) if study.spec.model.train else _named_skeleton(study.spec.model, study.base)


def fitting_modules(study: Study, skeleton) -> tuple[TrackedModule, ...]:
    """The tracked modules. Raises BadInput for settings that do not fit the model; a plan looks at them too."""
    from compute.block_diagonal import check_blocks
    from compute.tracked_modules import select_modules

    tracked = select_modules(skeleton, study.spec.curvature.modules)
    check_blocks(tracked, study.spec.curvature.blocks)
    for blocks in study.spec.ablation.blocks if study.spec.ablation else ():
        check_blocks(tracked, blocks, "options.ablation.blocks")
    check_ranks(study, tracked)
    check_refinement(study, tracked)
    check_context(study, skeleton)
    if study.spec.query_model:
        check_architecture(study, _named_skeleton(study.spec.query_model, study.base), skeleton)
    return tracked


def _trained_skeleton(study: Study):
    from compute.training import TrainSettings, empty_model

    training = study.spec.corpus.tokenizer.train
    return empty_model(TrainSettings(**study.spec.model.train.model_dump()), training.vocab_size)


def _named_skeleton(model: ModelSpec, base: str):
    from assets.model.checkpoint import checkpoint_directory
    from compute.checkpoint import model_skeleton

    if model.path:
        checkpoint_directory(model, base)
    return model_skeleton(model.location(base), revision=model.revision)


def _check_memory(study: Study, skeleton, tracked: tuple[TrackedModule, ...], queries: list[Query]) -> None:
    """The study's own budgets on every device, and on a CPU also what is there."""
    fit, corpus = study.spec.curvature, study.spec.corpus
    sizes = {"documents": fit.sample_documents, "tokens": corpus.max_tokens, "queries": len(queries)}
    sizes["shard_documents"] = min(corpus.shard_records, fit.sample_documents)  # before it is cut, it is not counted
    _check_budgets(study, tracked, **sizes)
    refuse_study_beyond_memory(study, skeleton, tracked, **sizes)
    if study.spec.ablation:
        check_ablation_memory(study, skeleton, tracked, **sizes)


def _check_budgets(study: Study, tracked: tuple[TrackedModule, ...], **sizes: int) -> None:
    from compute.cost import check_budgets
    from compute.token_loss import LOGITS_AT_ONCE

    setting = cost_setting(study, logits_at_once=LOGITS_AT_ONCE, **sizes)
    check_budgets(setting, tracked)
    if study.spec.ablation:
        check_ablation_budgets(study, setting, tracked)


def _check_same_tokenizer(study: Study) -> None:
    from compute.checkpoint import load_tokenizer
    from compute.tokenizer import tokenizer_fingerprint

    if study.spec.model.train:
        return  # its tokenizer is not there yet; the completions step compares
    one, other = (
        tokenizer_fingerprint(load_tokenizer(model.location(study.base), revision=model.revision))
        for model in (study.spec.model, study.spec.query_model)
    )
    if one != other:
        raise BadInput(
            f"query_model {study.spec.query_model.name}: its tokenizer is not that of model {study.spec.model.name}; "
            "give a checkpoint with the same tokenizer"
        )


def _check_tokenizer(study: Study, skeleton, queries: list[Query]) -> None:
    from compute.checkpoint import check_vocabulary, context_length, load_tokenizer
    from compute.windows import tokenize_query

    model = study.spec.model
    tokenizer = load_tokenizer(model.location(study.base), revision=model.revision)
    check_vocabulary(skeleton, len(tokenizer), model.name)
    context = context_length(skeleton)
    for query in queries if context else ():
        tokens = tokenize_query(query.prompt, query.completion, tokenizer)
        check_query_length(query.location, query.query_id, tokens, context, model.name)
