"""Sketches of whitened gradients: a few thousand numbers whose inner products estimate EK-FAC scores.

An EK-FAC score is ⟨W q, W d⟩ of a query's and a document's gradient, where W turns a gradient into the eigenbasis and
divides it by √(Λ + λ). A sketch keeps of W the directions with the largest share Λ / (Λ + λ), gives each a random sign,
adds them into K buckets and mixes these by a Hadamard matrix: the count sketch of Charikar et al. 2002 with buckets
that are filled evenly, then the rotation of Ailon & Chazelle 2006. Of the directions kept the inner product is
estimated without bias, with a variance of about ‖W q‖² ‖W d‖² / K; where K is not below their number it is exact.
Directions that are left out are those in which documents have little to say beyond the damping. Leaving most of them
out costs less than the noise that they would bring (`docs/log.md`).

Signs and places come from a hash of (seed, module, direction). D documents, S and A eigen-directions, K dimensions.
"""

from __future__ import annotations

from collections.abc import Mapping
from collections.abc import Sequence as SequenceOf
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from compute.curvature import Curvature
from compute.errors import BadInput
from compute.labels import key_hash, uniforms
from compute.tracked_modules import TrackedModule

KEPT = 0.2
"""The share of all directions that is kept, where there are more than dimensions."""


@dataclass
class _Kept:
    """Of one module the directions that are kept, in the order of their buckets: their places in a flat S×A, and what
    each is multiplied by, sign and whitening at once. The first bucket is `start`."""

    place_N: Tensor
    weight_N: Tensor
    start: int


class GradientSketch:
    """The sketch for one curvature and its damping; the same arguments give the same sketch on every machine.

    Raises BadInput for dimensions that are no power of two from 64 on.
    """

    def __init__(
        self, curvature: Curvature, modules: SequenceOf[TrackedModule], dimensions: int, *, seed: int = 0
    ) -> None:
        if dimensions < 64 or dimensions & (dimensions - 1):
            raise BadInput(f"options.index.dimensions is {dimensions}; give a power of two from 64 on")
        self.curvature, self.dimensions, self.seed = curvature, dimensions, seed
        self.modules = {module.name: module for module in modules}
        self.smallest_share = _smallest_share(curvature, self.modules, dimensions)
        self._kept: dict[str, _Kept] = {}
        start = 0
        for name in self.modules:
            kept = self._kept[name] = self._choose(name, start)
            start = (start + len(kept.place_N)) % dimensions
        some = next(iter(self._kept.values())).weight_N
        self.sign_K = _signs(seed, "rotation", dimensions).to(some.device, some.dtype)

    @property
    def directions(self) -> int:
        """How many directions of all modules are kept."""
        return sum(len(kept.place_N) for kept in self._kept.values())

    def kept(self, name: str, rotated_DSA: Tensor) -> Tensor:
        """Of gradients in the eigenbasis, not whitened yet: the N whitened entries that are kept of one module, D×N."""
        kept = self._kept[name]
        return rotated_DSA.flatten(1)[:, kept.place_N].mul_(kept.weight_N)

    def add(self, name: str, kept_DN: Tensor, buckets_DK: Tensor) -> None:
        """Adds one module's kept entries to the buckets, in place: laid around them from the module's first on.

        It takes no memory where both are on one device.
        """
        start, rest_DN = self._kept[name].start, kept_DN.to(buckets_DK.device)
        while rest_DN.shape[-1]:
            part_DN, rest_DN = rest_DN.tensor_split([self.dimensions - start], dim=-1)
            buckets_DK[..., start : start + part_DN.shape[-1]] += part_DN
            start = 0

    def mixed(self, buckets_DK: Tensor) -> Tensor:
        """The sketches D×K, of the buckets to which all modules have been added."""
        return _hadamard(buckets_DK * self.sign_K.to(buckets_DK.device))

    def of_direction(self, direction: Mapping[str, Tensor]) -> Tensor:
        """The sketch K of a query, of its preconditioned gradient (H + λ)⁻¹ ∇L(q), given as O×I per module name."""
        buckets_1K = self.sign_K.new_zeros(1, self.dimensions)
        for name, kept in self._kept.items():
            rotated_SA = self.curvature.eigenbasis[name].rotate(direction[name].to(kept.weight_N))
            # (Λ + λ)⁻¹ is inside already: multiplied by √(Λ + λ) it is the whitened gradient.
            self.add(name, rotated_SA.flatten()[kept.place_N][None] / kept.weight_N, buckets_1K)
        return self.mixed(buckets_1K)[0]

    def _choose(self, name: str, start: int) -> _Kept:
        whitening_N = self.curvature.whitening(name).flatten()
        share_N = self.curvature.eigenvalues[name].flatten() * whitening_N.square()
        place_N = ((share_N >= self.smallest_share) & (whitening_N > 0)).nonzero()[:, 0]
        order_N = torch.from_numpy(np.argsort(_hashed(self.seed, f"{name} place", len(place_N)), kind="stable"))
        place_N = place_N[order_N.to(place_N.device)]
        signs_N = _signs(self.seed, f"{name} sign", len(place_N)).to(place_N.device, whitening_N.dtype)
        return _Kept(place_N, whitening_N[place_N] * signs_N, start)


def _smallest_share(curvature: Curvature, names: Mapping[str, TrackedModule], dimensions: int) -> float:
    """The Λ / (Λ + λ) down to which directions are kept."""
    shares = [(curvature.eigenvalues[name] * curvature.whitening(name).square()).flatten().cpu() for name in names]
    share_P = torch.cat(shares).numpy()
    count = max(dimensions, int(KEPT * len(share_P)))
    return float(np.partition(share_P, -count)[-count]) if count < len(share_P) else 0.0


def _hashed(seed: int, what: str, count: int) -> np.ndarray:
    return uniforms(seed, np.full(count, key_hash(what), np.uint64), np.arange(count))


def _signs(seed: int, what: str, count: int) -> Tensor:
    return torch.from_numpy(np.where(_hashed(seed, what, count) < 0.5, -1.0, 1.0))


def _hadamard(values_DK: Tensor) -> Tensor:
    """The orthonormal Walsh–Hadamard transform of each row."""
    count, dimensions = values_DK.shape
    half = 1
    while half < dimensions:
        pairs = values_DK.view(count, -1, 2, half)
        values_DK = torch.stack((pairs[:, :, 0] + pairs[:, :, 1], pairs[:, :, 0] - pairs[:, :, 1]), 2)
        values_DK, half = values_DK.view(count, dimensions), 2 * half
    return values_DK / dimensions**0.5
