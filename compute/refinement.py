"""Refined query gradients: (G + λ)⁻¹ ∇L(q), with the Gauss–Newton matrix G of all tracked modules together.

EK-FAC stands in for G module by module. ASTRA (Wang et al. 2025, *Better Training Data Attribution via Better Inverse
Hessian-Vector Products*) takes EK-FAC for the preconditioner of an iteration that multiplies by G itself; its first
step from zero is EK-FAC. There the iteration is Neumann's on random batches; here the documents are fixed, so the same
system with the same preconditioner is solved by conjugate gradients (Hestenes & Stiefel 1952), which need no step size.
Each step takes one pass over the documents per query.

G = (1/D) Σ_d Jᵀ H J over the documents: J the derivative of their logits, H that of the softmax's cross-entropy, whose
labels it does not depend on. It is the mean that Λ estimates by sampled labels (Martens 2014, section 9.2), without the
noise of sampling. λ is EK-FAC's: `damping` times mean(Λ) of each module.

B documents of a batch, T positions, N positions that predict a token, V vocabulary, E width of the head's input,
O outputs, I inputs (with the bias column).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from collections.abc import Sequence as SequenceOf
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.autograd import forward_ad
from torch.nn.attention import SDPBackend, sdpa_kernel

from compute.batches import Batch, Sequence
from compute.curvature import Curvature
from compute.devices import summed
from compute.errors import BadInput
from compute.experts import eager_experts
from compute.passes import OnBatch, accumulation_dtype, backward_passes
from compute.query_gradients import dense_gradients
from compute.token_loss import Curved
from compute.tracked_modules import TrackedModule, linear_modules, product_without_bias

Vector = dict[str, Tensor]
"""O×I of every module by name: one vector over all tracked parameters."""


@dataclass(frozen=True)
class Refined:
    """A query's refined gradient per module name, O×I.

    `residuals` has, after each pass, what is left of the right side, ‖∇L − (G + λ) x‖ ∕ ‖∇L‖ in the preconditioner's
    norm: 0 where the system is solved. It need not fall at every pass; the error of x does.
    """

    key: str
    gradients: Vector
    residuals: tuple[float, ...]


def refined_gradients(
    model: nn.Module,
    query_model: nn.Module,
    modules: SequenceOf[TrackedModule],
    queries: SequenceOf[Sequence],
    curvature: Curvature,
    documents: SequenceOf[Sequence],
    *,
    passes: int,
    token_budget: int = 8192,
    on_batch: OnBatch | None = None,
) -> Iterator[Refined]:
    """Each query's refined gradient after `passes` steps, in the order of the queries.

    G is of `model`, the queries' gradients are of `query_model`. Raises BadInput for routed experts, whose tokens
    change with the weights, and as `backward_passes` does.
    """
    if passes < 1:
        raise ValueError(f"{passes} passes: one is the least")
    for module in modules:
        if module.expert:
            raise BadInput(f"options.methods: astra cannot refine routed experts ({module.name}); leave it out")
    for query in queries:
        right = dense_gradients(query_model, modules, query)

        def product(vector: Vector) -> Vector:
            return gauss_newton_product(model, modules, documents, vector, token_budget=token_budget, on_batch=on_batch)

        yield Refined(query.key, *_solved(product, curvature, right, passes))


def gauss_newton_product(
    model: nn.Module,
    modules: SequenceOf[TrackedModule],
    documents: SequenceOf[Sequence],
    vector: Vector,
    *,
    token_budget: int = 8192,
    on_batch: OnBatch | None = None,
) -> Vector:
    """G x of the documents, by one pass: forward with the derivative along x, forward and backward."""
    dtype = accumulation_dtype(model)
    totals = {name: torch.zeros_like(each_OI) for name, each_OI in vector.items()}

    def consume(_: Batch, module: TrackedModule, activation_BTI: Tensor, gradient_BTO: Tensor) -> None:
        activation_NI, gradient_NO = activation_BTI.flatten(0, 1).to(dtype), gradient_BTO.flatten(0, 1).to(dtype)
        product_OI = gradient_NO.T @ activation_NI
        if module.has_bias:
            product_OI = torch.cat([product_OI, gradient_NO.sum(0)[:, None]], 1)
        totals[module.name] += product_OI

    with _moved_along(model, modules, vector) as derivative:
        passes = backward_passes(
            model,
            modules,
            documents,
            consume,
            token_budget=token_budget,
            labels=Curved(derivative),
            on_batch=on_batch,
            remedy="leave modules out of curvature.modules",
        )
        for _ in passes:
            pass
    return {name: each_OI / len(documents) for name, each_OI in totals.items()}


@contextmanager
def _moved_along(
    model: nn.Module, modules: SequenceOf[TrackedModule], vector: Vector
) -> Iterator[Callable[[Callable[[], Tensor]], Tensor]]:
    """Gives what turns a forward pass into the derivative of its result along the vector.

    A tracked module's output moves by x a, and every linear one's with what moved before it. By hooks: left to itself,
    PyTorch multiplies by the zeros too that are the derivative of weights.
    """
    is_moving = [False]
    tracked = {module.name: module for module in modules}
    arriving: dict[str, Tensor | None] = {}  # how the input of the module that is at work moves

    def hooks_of(name: str):
        def before(linear: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...] | None:
            if not is_moving[0] or not inputs or linear.weight.is_meta:  # the weight is elsewhere but in the forward
                return None
            primal, arriving[name] = forward_ad.unpack_dual(inputs[0])
            return (primal, *inputs[1:])

        def after(linear: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> Tensor | None:
            if not is_moving[0]:
                return None
            primal, tangent = forward_ad.unpack_dual(output)
            if (arrived := arriving.pop(name, None)) is not None:
                tangent = product_without_bias(linear, arrived)
            if name in tracked:
                activation = forward_ad.unpack_dual(inputs[0]).primal
                moved = _moved_by(tracked[name], vector[name].to(primal.dtype), activation)
                tangent = moved if tangent is None else tangent + moved
            return None if tangent is None else forward_ad.make_dual(primal, tangent)

        return before, after

    def derivative(forward: Callable[[], Tensor]) -> Tensor:
        is_moving[0] = True
        try:
            # Of the ways to compute attention and experts, the plain ones alone have a derivative forwards.
            with torch.no_grad(), forward_ad.dual_level(), sdpa_kernel(SDPBackend.MATH), eager_experts(model):
                primal, tangent = forward_ad.unpack_dual(forward())
                return torch.zeros_like(primal) if tangent is None else tangent.clone()
        finally:
            is_moving[0] = False
            arriving.clear()

    with ExitStack() as undo:
        for name, module in linear_modules(model).items():
            if module.expert:
                continue
            linear, (before, after) = model.get_submodule(name), hooks_of(name)
            undo.callback(linear.register_forward_pre_hook(before).remove)
            undo.callback(linear.register_forward_hook(after).remove)
        yield derivative


def _moved_by(module: TrackedModule, x_OI: Tensor, activation: Tensor) -> Tensor:
    moved = activation @ x_OI[:, : module.in_features].T
    return moved + x_OI[:, -1] if module.has_bias else moved


def _solved(
    product: Callable[[Vector], Vector], curvature: Curvature, right: Vector, passes: int
) -> tuple[Vector, tuple[float, ...]]:
    """Preconditioned conjugate gradients from zero: the solution, and the residual after each pass."""
    solution = {name: torch.zeros_like(each_OI) for name, each_OI in right.items()}
    residual = {name: each_OI.clone() for name, each_OI in right.items()}
    direction = _preconditioned(curvature, residual)
    first = square = _inner(residual, direction)
    residuals: list[float] = []
    for _ in range(passes):
        if not square > 0:  # solved, or nothing to solve
            break
        moved = product(direction)
        moved = {name: moved[name] + curvature.damping_of(name) * direction[name] for name in right}
        step = square / _inner(direction, moved)
        for name in right:
            solution[name] += step * direction[name]
            residual[name] -= step * moved[name]
        conditioned = _preconditioned(curvature, residual)
        before, square = square, _inner(residual, conditioned)
        residuals.append((square / first) ** 0.5)
        direction = {name: conditioned[name] + square / before * direction[name] for name in right}
    return solution, tuple(residuals)


def _preconditioned(curvature: Curvature, vector: Vector) -> Vector:
    return {name: curvature.precondition(name, each_OI) for name, each_OI in vector.items()}


def _inner(one: Vector, other: Vector) -> float:
    # Summed up where the modules are: a number of each would make the host wait for every one.
    return summed([(one[name] * other[name]).sum(dtype=torch.float64) for name in one]).item()
