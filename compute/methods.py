"""The methods: how a query's gradient and a document's are compared.

With M a metric, and q and d the gradients over all tracked modules, a score is ⟨q, M d⟩, divided by ‖q‖_M ‖d‖_M where
a method takes gradients at unit norm, ‖x‖_M = √⟨x, M x⟩. Positive always means that more of the document would lower
the loss of the query's completion.

| method | metric M | unit norm | source |
|---|---|---|---|
| ekfac | (H + λ)⁻¹, with H the Kronecker factors with corrected eigenvalues | no | Grosse et al. 2023, equation 18 |
| dot | none (TracIn at one checkpoint) | no | Pruthi et al. 2020 |
| kfac | (H + λ)⁻¹, with H = T · S ⊗ A not corrected | no | Martens & Grosse 2015; Grosse et al. 2023, section 3.1 |
| cosine | none: the cosine of plain gradients | yes | Hanawa et al. 2021 (GC) |
| trackstar | that of ekfac: the cosine of gradients whitened by (H + λ)^-½ | yes | Chang et al. 2024, in style |
| astra | (G + λ)⁻¹, G the whole Gauss–Newton matrix (`compute/refinement.py`) | no | Wang et al. 2025, in style |

S and A are means over tokens and Λ is one over documents, so K-FAC's eigenvalues are multiplied by T, the mean number
of tokens of a document (of a routed expert: that reach it). λ is `damping` times the mean of the eigenvalues that it is
added to. Of TrackStar the whitened gradients at unit norm are taken over, not its random projections nor its scaling by
an optimizer's second moments; for one query it ranks documents as l-relative influence (Barshan et al. 2020) does.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

from compute.errors import BadInput

Metric = Literal["plain", "ekfac", "kfac"]


@dataclass(frozen=True)
class Method:
    """The metric of a method, and whether gradients are taken at unit norm in it.

    A `refined` one's query gradients come out of a stage of their own, which starts from this metric.
    """

    metric: Metric
    unit_norm: bool = False
    refined: bool = False


METHODS = {
    "ekfac": Method("ekfac"),
    "dot": Method("plain"),
    "kfac": Method("kfac"),
    "cosine": Method("plain", unit_norm=True),
    "trackstar": Method("ekfac", unit_norm=True),
    "astra": Method("ekfac", refined=True),
}
USUAL = ("ekfac", "dot")


def known_method(method: str) -> Method:
    """Raises BadInput for a method that is not known."""
    if method not in METHODS:
        raise BadInput(f"options.methods: {method!r} is not known; known are {', '.join(METHODS)}")
    return METHODS[method]


def metrics_of(methods: Iterable[str]) -> list[Metric]:
    """The metrics that the methods differ in, each once. Raises BadInput for a method that is not known."""
    return list(dict.fromkeys(known_method(method).metric for method in methods))


def norm_metric(method: str) -> Metric | None:
    """The metric of the document's norm by which the method's scores are divided; None where they are not."""
    return known_method(method).metric if known_method(method).unit_norm else None


def refines(methods: Iterable[str]) -> bool:
    """Whether a method's query gradients come out of the stage of refinement."""
    return any(known_method(method).refined for method in methods)


def whitens(methods: Iterable[str]) -> bool:
    """Whether a method divides by the norm of a document's whitened gradient, which takes the curvature."""
    return bool(norm_metrics(methods) - {"plain"})


def norm_metrics(methods: Iterable[str]) -> set[Metric]:
    """Those of all these methods together."""
    return {metric for method in methods if (metric := norm_metric(method))}
