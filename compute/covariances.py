"""Stage 1 of EK-FAC: the covariances A = E[a aᵀ] and S = E[g gᵀ] of each module, expectations over unmasked tokens.

Grosse et al. 2023, section 3.1 (equations 12–14). A routed expert's are means over the tokens that reached it, and zero
where none did. Both may be cut into diagonal blocks (`compute/block_diagonal.py`). N tokens of a batch, I inputs (with
the bias column), O outputs.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence as SequenceOf
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from compute.batches import Batch, Sequence
from compute.block_diagonal import Matrix, blocks_of, check_blocks, cut, of_blocks
from compute.devices import module_device
from compute.passes import FIT_IN_PASSES, OnBatch, accumulation_dtype, backward_passes
from compute.token_loss import Labels
from compute.tracked_modules import TrackedModule

# Inputs: between two modules that share one there is one other at most (k, o, q, v by name; in the backward pass of
# Phi fc1, dense, v, k, q).
RECENT = 2
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


@dataclass(eq=False)
class _Input:
    """An input of modules, and of each diagonal block of Σ a aᵀ the upper triangle."""

    held: Tensor
    products: list[Tensor]
    sum_I: Tensor


class _Sums:
    """Running sums of one module: of each diagonal block, which is symmetric, the upper triangle alone.

    The border of A that belongs to the bias column is the sum of the activations; it is of the last block.
    """

    def __init__(self, module: TrackedModule, blocks: int, dtype: torch.dtype, device) -> None:
        self.module, self.tokens = module, 0
        self.activation = _zero_blocks(module.in_features, blocks, dtype, device)
        self.activation_I = torch.zeros(module.in_features, dtype=dtype, device=device)
        self.gradient = _zero_blocks(module.out_features, blocks, dtype, device)

    def add(self, input: _Input, gradient_NO: Tensor) -> None:
        # What takes memory has come before: where it runs out, nothing has been added.
        _add_to_blocks(self.gradient, gradient_NO)
        for sum_MM, product_MM in zip(self.activation, input.products, strict=True):
            sum_MM += product_MM
        if self.module.has_bias:
            self.activation_I += input.sum_I
        self.tokens += len(gradient_NO)

    def means(self) -> ModuleCovariances:
        activation, gradient = list(map(whole, self.activation)), list(map(whole, self.gradient))
        if self.module.has_bias:
            ones = activation[-1].new_tensor([[float(self.tokens)]])
            border_M1 = self.activation_I[-len(activation[-1]) :, None]
            activation[-1] = torch.cat([torch.cat([activation[-1], border_M1], 1), torch.cat([border_M1.T, ones], 1)])
        count = max(1, self.tokens)  # an expert that no token reached has zeros
        activation_II, gradient_OO = (of_blocks([each / count for each in side]) for side in (activation, gradient))
        return ModuleCovariances(activation_II, gradient_OO, self.tokens)


class _Inputs:
    """Of a batch's last inputs Σ a aᵀ and Σ a, made once for modules that share their input, as gate and up do.

    Their rows are not kept, and nothing is of a routed expert, whose input is its own.
    """

    def __init__(self, blocks: int, dtype: torch.dtype) -> None:
        self.blocks, self.dtype = blocks, dtype
        self._recent: deque[_Input] = deque()

    def of_module(self, batch: Batch, module: TrackedModule, activation_BTI: Tensor) -> _Input:
        if module.expert:
            return self._made(batch, activation_BTI)
        for each in self._recent:
            # Its memory is held, so that no other can have it: equal memory is the same tensor.
            if each.held.data_ptr() == activation_BTI.data_ptr() and each.held.shape == activation_BTI.shape:
                self._recent.remove(each)
                self._recent.append(each)
                return each
        if len(self._recent) == RECENT:
            self._recent.popleft()  # before more is asked for
        self._recent.append(self._made(batch, activation_BTI))
        return self._recent[-1]

    def _made(self, batch: Batch, activation_BTI: Tensor) -> _Input:
        rows_NI = real_rows(batch, activation_BTI, self.dtype)
        products = _zero_blocks(rows_NI.shape[1], self.blocks, self.dtype, rows_NI.device)
        _add_to_blocks(products, rows_NI)
        return _Input(activation_BTI, products, rows_NI.sum(0))

    def forget(self) -> None:
        """Lets all go: the batch is over, or does not fit in memory."""
        self._recent.clear()


def real_rows(batch: Batch, values_BTM: Tensor, dtype: torch.dtype) -> Tensor:
    """The rows at real tokens."""
    rows_NM = values_BTM.flatten(0, 1)
    if len(batch.real_places) < len(rows_NM):  # where nothing is padding they need no copy
        rows_NM = rows_NM.index_select(0, batch.real_places.to(rows_NM.device))
    return rows_NM.to(dtype)


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
    inputs = _Inputs(blocks, dtype)

    def consume(batch: Batch, module: TrackedModule, activation_BTI: Tensor, gradient_BTO: Tensor) -> None:
        input = inputs.of_module(batch, module, activation_BTI)
        sums[module.name].add(input, real_rows(batch, gradient_BTO, dtype))

    passes = backward_passes(
        model,
        modules,
        documents,
        consume,
        token_budget=token_budget,
        labels=Labels.named(labels, seed),
        on_batch=on_batch,
        forget=inputs.forget,
        remedy=FIT_IN_PASSES,
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
