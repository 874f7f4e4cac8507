"""The reference that the engine is tested against: for-loops, one document at a time, no padding, no hooks, float64.

It imports nothing from `compute/`. Weight gradients come from `torch.autograd.grad` with respect to the weights
themselves (the engine never forms those), output gradients from a tensor of zeros added to a module's output, and the
inverse from a dense matrix over all entries of a weight. Formulas: Grosse et al. 2023 (arXiv 2308.03296).

T positions of a document, I inputs (a column of ones last if the module has a bias), O outputs.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn


class Probed(nn.Module):
    """A linear layer that keeps its input and adds zeros to its output, for the output's gradient to be asked for."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, input_1TI: Tensor) -> Tensor:
        output_1TO = self.layer(input_1TI)
        self.input_1TI = input_1TI.detach()
        self.zeros_1TO = torch.zeros_like(output_1TO, requires_grad=True)
        return output_1TO + self.zeros_1TO


@contextmanager
def probed(model: nn.Module, names: Iterable[str]):
    """`model` with its named layers replaced by probed ones while open."""
    layers = {name: model.get_submodule(name) for name in names}
    probes = {name: Probed(layer) for name, layer in layers.items()}
    for name, probe in probes.items():
        _replace(model, name, probe)
    try:
        yield probes
    finally:
        for name, layer in layers.items():
            _replace(model, name, layer)


def loss(
    model: nn.Module, token_ids: Sequence[int], loss_start: int = 1, labels: Sequence[int] | None = None
) -> Tensor:
    """Cross-entropy summed over positions loss_start … T−1; `labels[t]` replaces token t as a target where given."""
    logits_TV = model(torch.tensor([list(token_ids)])).logits[0]
    targets = token_ids if labels is None else labels
    total = torch.zeros((), dtype=logits_TV.dtype)
    for position in range(max(1, loss_start), len(token_ids)):
        logits_V = logits_TV[position - 1]
        total = total + torch.logsumexp(logits_V, 0) - logits_V[targets[position]]
    return total


def weight_gradients(model: nn.Module, names: Iterable[str], *document) -> dict[str, Tensor]:
    """The gradient of a document's loss for each module as O×I, its bias gradient as the last column."""
    names = list(names)
    require_gradients(model, names)
    return gradients_of(model, names, loss(model, *document))


def require_gradients(model: nn.Module, names: Iterable[str]) -> None:
    for name in names:
        for parameter in _weight_and_bias(model, name):
            if parameter is not None:
                parameter.requires_grad_(True)


def gradients_of(model: nn.Module, names: list[str], value: Tensor, *, again: bool = False) -> dict[str, Tensor]:
    """The gradient of a number for each module as O×I; `again` where more are to be taken of the same forward pass."""
    parameters = {name: [p for p in _weight_and_bias(model, name) if p is not None] for name in names}
    flat = [parameter for name in names for parameter in parameters[name]]
    found = iter(torch.autograd.grad(value, flat, retain_graph=again))
    return {name: _outputs_by_inputs(model, name, [next(found) for _ in parameters[name]]) for name in names}


def activations_and_output_gradients(model: nn.Module, names: Iterable[str], *document) -> dict[str, tuple]:
    """Per module a_TI (with the column of ones) and g_TO of one document."""
    with probed(model, names) as probes:
        value = loss(model, *document)
        gradients = torch.autograd.grad(value, [probe.zeros_1TO for probe in probes.values()])
    return {
        name: (_with_ones(_rows(probe.input_1TI), _weight_and_bias(model, name)[1]), _rows(gradient_1TO))
        for (name, probe), gradient_1TO in zip(probes.items(), gradients, strict=True)
    }


def covariances(model: nn.Module, names: Iterable[str], documents: Iterable[tuple]) -> dict[str, tuple[Tensor, Tensor]]:
    """A_II and S_OO of each module: means of a aᵀ and g gᵀ over all tokens of all documents."""
    names, sums, tokens = list(names), {}, 0
    for document in documents:
        found = activations_and_output_gradients(model, names, *document)
        tokens += len(document[0])
        for name, (a_TI, g_TO) in found.items():
            for a_I, g_O in zip(a_TI, g_TO, strict=True):
                A_II, S_OO = sums.get(name, (0, 0))
                sums[name] = (A_II + torch.outer(a_I, a_I), S_OO + torch.outer(g_O, g_O))
    return {name: (A_II / tokens, S_OO / tokens) for name, (A_II, S_OO) in sums.items()}


def eigenvalue_correction(
    model: nn.Module, bases: dict[str, tuple[Tensor, Tensor]], documents: Iterable[tuple]
) -> dict[str, Tensor]:
    """Λ_OI: the mean over documents of the squared entries of Q_Sᵀ G Q_A; `bases` holds (Q_A, Q_S) per module."""
    documents = list(documents)
    total = {name: 0 for name in bases}
    for document in documents:
        for name, gradient_OI in weight_gradients(model, bases, *document).items():
            Q_A, Q_S = bases[name]
            total[name] = total[name] + (Q_S.T @ gradient_OI @ Q_A) ** 2
    return {name: value / len(documents) for name, value in total.items()}


def kronecker_inverse(Q_A: Tensor, Q_S: Tensor, lambda_OI: Tensor, damping: float) -> Tensor:
    """The dense (Q_A ⊗ Q_S) diag(Λ + λ)⁻¹ (Q_A ⊗ Q_S)ᵀ, which acts on vec(G): the columns of G under each other."""
    Q = torch.kron(Q_A, Q_S)
    return Q @ torch.diag(1.0 / (vec(lambda_OI) + damping)) @ Q.T


def kfac_preconditioned(A_II: Tensor, S_OO: Tensor, tokens: float, damping: float, gradient_OI: Tensor) -> Tensor:
    """(tokens · A ⊗ S + λ)⁻¹ applied to one gradient, by solving the dense system; λ = damping · mean eigenvalue."""
    H = tokens * torch.kron(A_II, S_OO)
    mean = float(torch.trace(H)) / len(H)
    solved = torch.linalg.solve(H + damping * mean * torch.eye(len(H), dtype=H.dtype), vec(gradient_OI))
    return unvec(solved, gradient_OI.shape[0])


def whitened(Q_A: Tensor, Q_S: Tensor, lambda_OI: Tensor, damping: float, gradient_OI: Tensor) -> Tensor:
    """(H + λ)^-½ applied to one gradient through the dense matrix of that power."""
    Q = torch.kron(Q_A, Q_S)
    return unvec(Q @ ((Q.T @ vec(gradient_OI)) / (vec(lambda_OI) + damping) ** 0.5), gradient_OI.shape[0])


def cosine(left: dict[str, Tensor], right: dict[str, Tensor]) -> float:
    """Of two gradients over all modules together."""
    return score(left, right) / (norm(left) * norm(right))


def vec(matrix_OI: Tensor) -> Tensor:
    """The columns of a matrix under each other, the ordering in which (A ⊗ S) vec(G) = vec(S G Aᵀ)."""
    return torch.cat([matrix_OI[:, column] for column in range(matrix_OI.shape[1])])


def unvec(vector: Tensor, rows: int) -> Tensor:
    return torch.stack(list(vector.split(rows)), dim=1)


def precondition(Q_A: Tensor, Q_S: Tensor, lambda_OI: Tensor, damping: float, gradient_OI: Tensor) -> Tensor:
    """(G + λ)⁻¹ applied to one gradient through the dense matrix."""
    return unvec(kronecker_inverse(Q_A, Q_S, lambda_OI, damping) @ vec(gradient_OI), gradient_OI.shape[0])


def score(left: dict[str, Tensor], right: dict[str, Tensor]) -> float:
    """The inner product of two gradients, summed over modules entry by entry."""
    return sum(float((left[name] * right[name]).sum()) for name in left)


def norm(gradient: dict[str, Tensor]) -> float:
    return sum(float((matrix_OI**2).sum()) for matrix_OI in gradient.values()) ** 0.5


def relative_error(found: Tensor, expected: Tensor) -> float:
    """Largest error relative to the largest expected entry, so that zeros in the expected value do no harm."""
    found, expected = torch.as_tensor(found).double(), torch.as_tensor(expected).double()
    assert found.shape == expected.shape, f"{tuple(found.shape)} is not {tuple(expected.shape)}"
    return float((found - expected).abs().max() / expected.abs().max().clamp(min=1e-300))


def _weight_and_bias(model: nn.Module, name: str) -> tuple[nn.Parameter, nn.Parameter | None]:
    layer = model.get_submodule(name)
    return layer.weight, layer.bias


def _outputs_by_inputs(model: nn.Module, name: str, gradients: list[Tensor]) -> Tensor:
    """GPT-2's Conv1D computes x W + b with W of inputs × outputs; nn.Linear x Wᵀ + b with W of outputs × inputs."""
    conv1d = type(model.get_submodule(name)).__name__ == "Conv1D"
    weight_OI = gradients[0].T if conv1d else gradients[0]
    return torch.cat([weight_OI, gradients[1][:, None]], dim=1) if len(gradients) == 2 else weight_OI


def _rows(values_1TN: Tensor) -> Tensor:
    """A document's tokens, also where its model has flattened them (OPT)."""
    return values_1TN.reshape(-1, values_1TN.shape[-1])


def _with_ones(a_TI: Tensor, bias: Tensor | None) -> Tensor:
    return a_TI if bias is None else torch.cat([a_TI, torch.ones(len(a_TI), 1, dtype=a_TI.dtype)], dim=1)


def _replace(model: nn.Module, name: str, layer: nn.Module) -> None:
    parent, _, child = name.rpartition(".")
    setattr(model.get_submodule(parent), child, layer)
