"""Stage 1 of EK-FAC: the covariances A = E[a aᵀ] and S = E[g gᵀ] of each module, expectations over unmasked tokens.

Grosse et al. 2023, section 3.1 (equations 12–14). A routed expert's are means over the tokens that reached it, and zero
where none did. Both may be cut into diagonal blocks (`compute/block_diagonal.py`). N tokens of a batch, I inputs (with
the bias column), O outputs.
"""

from __future__ import annotations

from collections.abc import Sequence as SequenceOf
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from compute.batches import Batch, Sequence
from compute.block_diagonal import Matrix, blocks_of, check_blocks, cut, of_blocks
from compute.devices import module_device
from compute.passes import OnBatch, accumulation_dtype, backward_passes
from compute.token_loss import Labels
from compute.tracked_modules import TrackedModule

COLUMNS_AT_ONCE = 256  # narrower blocks compute less, and wider ones faster


@dataclass
class ModuleCovariances:
    """A (I×I, the bias column of ones last) and S (O×O) of one module, and the tokens they are means over."""

    activation_II: Matrix
    gradient_OO: Matrix
    tokens: int


def cut_covariances(whole: ModuleCovariances, blocks: int) -> ModuleCovariances:
    """A and S without what lies outside of their diagonal blocks."""
    return ModuleCovariances(cut(whole.activation_II, blocks), cut(whole.gradient_OO, blocks), whole.tokens)


class _Sums:
    """Running sums of one module: of each diagonal block, which is symmetric, the upper triangle alone.

    The border of A that belongs to the bias column is the sum of the activations; it is of the last block.
    """

    def __init__(self, module: TrackedModule, blocks: int, dtype: torch.dtype, device) -> None:
        self.module, self.tokens = module, 0
        self.activation = _zero_blocks(module.in_features, blocks, dtype, device)
        self.activation_I = torch.zeros(module.in_features, dtype=dtype, device=device)
        self.gradient = _zero_blocks(module.out_features, blocks, dtype, device)

    def add(self, products: list[Tensor], activation_NI: Tensor, gradient_NO: Tensor) -> None:
        # What takes memory comes first: where it runs out, nothing has been added.
        sum_I = activation_NI.sum(0) if self.module.has_bias else None
        _add_to_blocks(self.gradient, gradient_NO)
        for sum_MM, product_MM in zip(self.activation, products, strict=True):
            sum_MM += product_MM
        if sum_I is not None:
            self.activation_I += sum_I
        self.tokens += len(activation_NI)

    def means(self) -> ModuleCovariances:
        activation, gradient = list(map(whole, self.activation)), list(map(whole, self.gradient))
        if self.module.has_bias:
            ones = activation[-1].new_tensor([[float(self.tokens)]])
            border_M1 = self.activation_I[-len(activation[-1]) :, None]
            activation[-1] = torch.cat([torch.cat([activation[-1], border_M1], 1), torch.cat([border_M1.T, ones], 1)])
        count = max(1, self.tokens)  # an expert that no token reached has zeros
        activation_II, gradient_OO = (of_blocks([each / count for each in side]) for side in (activation, gradient))
        return ModuleCovariances(activation_II, gradient_OO, self.tokens)


class _BatchRows:
    """One batch's rows at real tokens; Σ a aᵀ is computed once for modules that share their input, as gate and up do.

    Backward reaches such modules one after the other, so that the last product is all that is kept.
    """

    def __init__(self, batch: Batch, blocks: int, dtype: torch.dtype) -> None:
        self.batch, self.blocks, self.dtype = batch, blocks, dtype
        # Places, and not a mask: how many it marks the host would have to ask of the device at every module.
        self.real_N = batch.attention_BT.flatten().nonzero()[:, 0]
        self.is_full = len(self.real_N) == batch.attention_BT.numel()  # nothing is padding: the rows need no copy
        self.held = self.rows_NI = torch.empty(0)
        self.sums: list[Tensor] = []

    def products(self, activation_BTI: Tensor) -> tuple[Tensor, list[Tensor]]:
        """The input's rows at real tokens, and of each diagonal block the upper triangle of their products."""
        # The last input is held, so that no other can have its memory: equal memory is the same tensor.
        is_same = self.held.data_ptr() == activation_BTI.data_ptr() and self.held.shape == activation_BTI.shape
        if not is_same:
            self.held, self.rows_NI = activation_BTI, self.rows(activation_BTI)
            self.sums = _zero_blocks(self.rows_NI.shape[1], self.blocks, self.dtype, self.rows_NI.device)
            _add_to_blocks(self.sums, self.rows_NI)
        return self.rows_NI, self.sums

    def rows(self, values_BTM: Tensor) -> Tensor:
        """The rows of real tokens, in the dtype of the sums."""
        rows_NM = values_BTM.flatten(0, 1)
        if not self.is_full:
            rows_NM = rows_NM.index_select(0, self.real_N.to(rows_NM.device))
        return rows_NM.to(self.dtype)


def _zero_blocks(features: int, blocks: int, dtype: torch.dtype, device) -> list[Tensor]:
    side = features // blocks
    return [torch.zeros(side, side, dtype=dtype, device=device) for _ in range(blocks)]


def _add_to_blocks(sums: list[Tensor], rows_NM: Tensor) -> None:
    """Adds the diagonal blocks of rows_NMᵀ rows_NM."""
    for sum_MM, part_NM in zip(sums, rows_NM.split(len(sums[0]), 1), strict=True):
        add_products(sum_MM, part_NM)


def add_products(sum_MM: Tensor, rows_NM: Tensor) -> None:
    """Adds rows_NMᵀ rows_NM to the upper triangle: of a symmetric matrix the rest need not be computed."""
    for start in range(0, len(sum_MM), COLUMNS_AT_ONCE):
        stop = start + COLUMNS_AT_ONCE
        sum_MM[start:stop, start:].addmm_(rows_NM[:, start:stop].T, rows_NM[:, start:])


def whole(upper_MM: Tensor) -> Tensor:
    """The symmetric matrix with this upper triangle."""
    return upper_MM.triu() + upper_MM.triu(1).T


def fit_covariances(
    model: nn.Module,
    modules: SequenceOf[TrackedModule],
    documents: SequenceOf[Sequence],
    *,
    labels: str = "sampled",
    seed: int = 0,
    blocks: int = 1,
    token_budget: int = 8192,
    on_batch: OnBatch | None = None,
) -> dict[str, ModuleCovariances]:
    """A and S per module name, accumulated in float32 (float64 for a float64 model).

    `labels`: "sampled" from the model under `seed` (the true Fisher), or "empirical". `blocks`: how many diagonal
    blocks A and S are cut into. Raises BadInput for a module that cannot be cut so, and for a document without a target
    token or with a loss that is not finite.
    """
    check_blocks(modules, blocks)
    dtype = accumulation_dtype(model)
    sums = {module.name: _Sums(module, blocks, dtype, module_device(model, module)) for module in modules}
    newest: list[_BatchRows] = []

    def consume(batch: Batch, module: TrackedModule, activation_BTI: Tensor, gradient_BTO: Tensor) -> None:
        if not newest or newest[0].batch is not batch:
            newest[:] = [_BatchRows(batch, blocks, dtype)]
        activation_NI, products = newest[0].products(activation_BTI)
        sums[module.name].add(products, activation_NI, newest[0].rows(gradient_BTO))

    passes = backward_passes(
        model,
        modules,
        documents,
        consume,
        token_budget=token_budget,
        labels=Labels.named(labels, seed),
        on_batch=on_batch,
    )
    for _ in passes:
        pass
    # Each module's sums are let go when its means are made.
    return {module.name: sums.pop(module.name).means() for module in modules}


#: Of the largest entry: float32 sums over long samples are asymmetric and indefinite by about this much.
ROUNDING = 1e-4


def covariance_defect(name: str, covariances: ModuleCovariances) -> str | None:
    """Why A or S of module `name` is no covariance matrix (finite, symmetric, no negative eigenvalue), or None.

    A shifted Cholesky factorization tells the sign of the smallest eigenvalue at a fraction of a decomposition's cost.
    """
    for side, matrix in (("A", covariances.activation_II), ("S", covariances.gradient_OO)):
        for block_NN in blocks_of(matrix):
            if problem := _block_defect(block_NN):
                return f"{side} of {name} {problem}"
    return None


def _block_defect(matrix_NN: Tensor) -> str | None:
    matrix_NN = matrix_NN.double()
    largest = matrix_NN.abs().max()
    if not torch.isfinite(largest):
        return "is not finite"
    if (matrix_NN - matrix_NN.T).abs().max() > ROUNDING * largest:
        return "is not symmetric"
    shifted_NN = (matrix_NN + matrix_NN.T) / 2
    shifted_NN.diagonal().add_(ROUNDING * largest + torch.finfo(torch.float64).tiny)
    if torch.linalg.cholesky_ex(shifted_NN).info > 0:
        return f"has a negative eigenvalue below −{ROUNDING} of its largest entry"
    return None
