"""Stage 1 of EK-FAC: the covariances A = E[a aᵀ] and S = E[g gᵀ] of each module, expectations over unmasked tokens.

Grosse et al. 2023, section 3.1 (equations 12–14). N tokens of a batch, I inputs (with the bias column), O outputs.
"""

from __future__ import annotations

from collections.abc import Callable
from collections.abc import Sequence as SequenceOf
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from compute.batches import Batch, Sequence
from compute.passes import accumulation_dtype, batches_for, captured
from compute.token_loss import Labels, run_batch
from compute.tracked_modules import TrackedModule

OnBatch = Callable[[int, int], None]
"""Called after each batch with the documents and the tokens (without padding) that it held."""


@dataclass
class ModuleCovariances:
    """A (I×I, the bias column of ones last) and S (O×O) of one module, and the tokens they are means over."""

    activation_II: Tensor
    gradient_OO: Tensor
    tokens: int


class _Sums:
    """Running sums of one module. The border of A that belongs to the bias column is the sum of the activations."""

    def __init__(self, module: TrackedModule, dtype: torch.dtype, device) -> None:
        self.module = module
        self.activation_II = torch.zeros(module.in_features, module.in_features, dtype=dtype, device=device)
        self.activation_I = torch.zeros(module.in_features, dtype=dtype, device=device)
        self.gradient_OO = torch.zeros(module.out_features, module.out_features, dtype=dtype, device=device)

    def add(self, activation_NI: Tensor, gradient_NO: Tensor) -> None:
        self.activation_II.addmm_(activation_NI.T, activation_NI)
        self.gradient_OO.addmm_(gradient_NO.T, gradient_NO)
        if self.module.has_bias:
            self.activation_I += activation_NI.sum(0)

    def means(self, tokens: int) -> ModuleCovariances:
        activation_II = self.activation_II
        if self.module.has_bias:
            ones = activation_II.new_tensor([[float(tokens)]])
            border_I1 = self.activation_I[:, None]
            activation_II = torch.cat([torch.cat([activation_II, border_I1], 1), torch.cat([border_I1.T, ones], 1)])
        return ModuleCovariances(activation_II / tokens, self.gradient_OO / tokens, tokens)


def fit_covariances(
    model: nn.Module,
    modules: SequenceOf[TrackedModule],
    documents: SequenceOf[Sequence],
    *,
    labels: str = "sampled",
    seed: int = 0,
    token_budget: int = 8192,
    on_batch: OnBatch | None = None,
) -> dict[str, ModuleCovariances]:
    """A and S per module name, accumulated in float32 (float64 for a float64 model).

    `labels`: "sampled" from the model under `seed` (the true Fisher), or "empirical". Raises BadInput for a
    document without a target token or with a loss that is not finite.
    """
    device, dtype = next(model.parameters()).device, accumulation_dtype(model)
    sums = {module.name: _Sums(module, dtype, device) for module in modules}
    current: list[Batch] = []

    def consume(module: TrackedModule, activation_BTI: Tensor, gradient_BTO: Tensor) -> None:
        real_BT = current[0].attention_BT.bool()
        sums[module.name].add(activation_BTI[real_BT].to(dtype), gradient_BTO[real_BT].to(dtype))

    tokens = 0
    with captured(model, modules, consume):
        for batch in batches_for(model, documents, token_budget):
            current[:] = [batch]
            run_batch(model, batch, Labels.named(labels, seed))
            tokens += batch.tokens
            if on_batch:
                on_batch(len(batch.keys_B), batch.tokens)
    return {name: module_sums.means(tokens) for name, module_sums in sums.items()}


#: Of the largest entry: float32 sums over long samples are asymmetric and indefinite by about this much.
ROUNDING = 1e-4


def covariance_defect(name: str, covariances: ModuleCovariances) -> str | None:
    """Why A or S of module `name` is no covariance matrix (finite, symmetric, no negative eigenvalue), or None.

    A shifted Cholesky factorization tells the sign of the smallest eigenvalue at a fraction of a decomposition's cost.
    """
    for side, matrix_NN in (("A", covariances.activation_II), ("S", covariances.gradient_OO)):
        matrix_NN = matrix_NN.double()
        largest = matrix_NN.abs().max()
        if not torch.isfinite(largest):
            return f"{side} of {name} is not finite"
        if (matrix_NN - matrix_NN.T).abs().max() > ROUNDING * largest:
            return f"{side} of {name} is not symmetric"
        shifted_NN = (matrix_NN + matrix_NN.T) / 2
        shifted_NN.diagonal().add_(ROUNDING * largest + torch.finfo(torch.float64).tiny)
        if torch.linalg.cholesky_ex(shifted_NN).info > 0:
            return f"{side} of {name} has a negative eigenvalue below −{ROUNDING} of its largest entry"
    return None
