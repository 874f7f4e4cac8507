"""Stage 3 of EK-FAC: the eigenvalue correction Λ = E_documents[(Q_Sᵀ G Q_A)²].

George et al. 2018 (equation 10), Grosse et al. 2023 (equation 17). The square is taken of a document's whole
gradient, summed over its tokens, and the mean over documents. D documents at once, T positions, S and A
eigen-directions of outputs and inputs.
"""

from __future__ import annotations

from collections.abc import Iterator
from collections.abc import Sequence as SequenceOf

import torch
from torch import Tensor, nn

from compute.batches import Batch, Sequence
from compute.devices import module_device
from compute.eigenbasis import ModuleEigenbasis
from compute.module_gradients import document_gradients
from compute.passes import FIT_IN_PASSES, OnBatch, accumulation_dtype, backward_passes
from compute.token_loss import Labels
from compute.tracked_modules import TrackedModule


def fit_eigenvalues(
    model: nn.Module,
    modules: SequenceOf[TrackedModule],
    eigenbasis: dict[str, ModuleEigenbasis],
    documents: SequenceOf[Sequence],
    *,
    labels: str = "sampled",
    seed: int = 0,
    token_budget: int = 8192,
    on_batch: OnBatch | None = None,
) -> dict[str, Tensor]:
    """Λ_SA per module name. Arguments and errors as for `fit_covariances`; the labels must be the same ones."""
    dtype = accumulation_dtype(model)
    sums = {m.name: torch.zeros(m.out_features, m.in_dim, dtype=dtype, device=module_device(model, m)) for m in modules}

    def consume(_: Batch, module: TrackedModule, activation_BTI: Tensor, gradient_BTO: Tensor) -> None:
        basis, total_SA = eigenbasis[module.name], torch.zeros_like(sums[module.name])
        for rotated_DSA in rotated_gradients(module, basis, activation_BTI.to(dtype), gradient_BTO.to(dtype)):
            total_SA += rotated_DSA.square_().sum(0)
        sums[module.name] += total_SA  # at once, so that a batch that is out of memory leaves nothing

    passes = backward_passes(
        model,
        modules,
        documents,
        consume,
        token_budget=token_budget,
        labels=Labels.named(labels, seed),
        on_batch=on_batch,
        remedy=FIT_IN_PASSES,
    )
    count = sum(len(batch.keys_B) for batch, _ in passes)
    return {name: sum_SA / count for name, sum_SA in sums.items()}


def rotated_gradients(
    module: TrackedModule, basis: ModuleEigenbasis, activation_BTI: Tensor, gradient_BTO: Tensor
) -> Iterator[Tensor]:
    """Chunks D×S×A of Q_Sᵀ G Q_A, rotating the document's gradient or its tokens, whichever costs less."""
    outputs, inputs, positions = module.out_features, module.in_dim, activation_BTI.shape[1]
    rotate_gradient = outputs * inputs * (outputs + inputs) < positions * (outputs**2 + inputs**2)
    if rotate_gradient:
        for gradient_DOI in document_gradients(module, activation_BTI, gradient_BTO):
            yield basis.rotate(gradient_DOI)
        return
    activation_BTA = basis.rotate_inputs(activation_BTI, module.has_bias)
    # The bias column is inside the rotated activations now, so the plain product is the whole gradient.
    rotated = TrackedModule(module.name, inputs, outputs, has_bias=False)
    yield from document_gradients(rotated, activation_BTA, gradient_BTO @ basis.gradient_vectors_OS)


def eigenvalue_defect(name: str, eigenvalues_SA: Tensor) -> str | None:
    """Why Λ of module `name` cannot be means of squares (finite, not negative), or None."""
    if not torch.isfinite(eigenvalues_SA).all():
        return f"Λ of {name} is not finite"
    if (smallest := eigenvalues_SA.min().item()) < 0:
        return f"Λ of {name} has the negative entry {smallest:.1e}"
    return None
