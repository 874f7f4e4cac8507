"""The study's fit with its covariances cut into diagonal blocks, which is kept nowhere: it is made for the ablation."""

from __future__ import annotations

from typing import TYPE_CHECKING

from assets.curvature.factors import stored_covariances

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from assets.specs.study import Study
    from assets.step.reading import Reading
    from compute.batches import Sequence as Document
    from compute.curvature import Curvature
    from compute.tracked_modules import TrackedModule


def block_curvature(
    step: Reading,
    study: Study,
    model,
    modules: Sequence[TrackedModule],
    documents: Sequence[Document],
    blocks: int,
    *,
    on_batch: Callable[[int, int], None] | None = None,
) -> Curvature:
    """The stored A and S without what lies outside of the blocks, decomposed anew, and Λ refitted over `documents`, the
    sample that the fit is of.

    The factors of all modules are held at a time; A and S are 1/`blocks` as large as whole ones.
    """
    from compute.covariances import cut_covariances
    from compute.curvature import Curvature
    from compute.eigenbasis import Decomposition
    from compute.eigenvalues import fit_eigenvalues
    from compute.passes import placement

    fit, decomposition = study.spec.curvature, Decomposition()
    basis = {}
    for module in modules:
        cut = cut_covariances(stored_covariances(step, fit.name, module.name), blocks)
        basis[module.name] = decomposition.of_module(cut).to(*placement(model, module))
    settings = {"labels": fit.labels, "seed": fit.seed, "token_budget": fit.token_budget, "on_batch": on_batch}
    eigenvalues = fit_eigenvalues(model, modules, basis, documents, **settings)
    return Curvature(basis, eigenvalues, study.spec.options.damping)
