"""The ablation of a study in a low precision that did not ask for one: what it compares, and how to do without it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from assets.specs.study import Study
from compute.errors import BadInput

WITHOUT = "set options.ablation to false"


def is_unasked(study: Study) -> bool:
    return study.spec.options.ablation is None and study.spec.ablation is not None


def what_is_compared(study: Study) -> str:
    """In words, and how to do without."""
    spec = study.spec.ablation
    return (
        f"{' and '.join(spec.precisions)} is compared with float32 on {spec.documents} documents, as options.ablation "
        f"left out has it; {WITHOUT} to do without"
    )


def or_without(study: Study, problem: str) -> str:
    """The sentence of a problem that the study has with its ablation, with this way out where it did not ask for it."""
    if not is_unasked(study):
        return problem
    return f"{problem}; or {WITHOUT}: nothing then tells how well {' and '.join(study.spec.ablation.precisions)} agrees"


@contextmanager
def told_how_to_do_without(study: Study) -> Iterator[None]:
    """Around what may refuse the ablation."""
    try:
        yield
    except BadInput as problem:
        raise BadInput(or_without(study, str(problem))) from problem
