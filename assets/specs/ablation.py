"""What a study says about its ablation: cheaper settings whose scores are compared with full-rank float32 EK-FAC."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Discriminator, Field, Tag

from assets.specs.spec import Spec


def _each_once(values: tuple) -> tuple:
    if twice := [value for value in values if values.count(value) > 1]:
        raise ValueError(f"lists {twice[0]} twice")
    return values


Ranks = Annotated[tuple[Annotated[int, Field(ge=1)], ...], AfterValidator(_each_once)]
Blocks = Annotated[tuple[Annotated[int, Field(ge=2)], ...], AfterValidator(_each_once)]
Precisions = Annotated[tuple[Literal["bfloat16", "float16"], ...], AfterValidator(_each_once)]


class AblationSpec(Spec):
    """Settings that cost less, and the sample of documents on which their scores are compared with full-rank EK-FAC of
    the float32 model. The study's own setting is always among them."""

    documents: int = Field(
        300, ge=12, description="Documents of the pinned sample, drawn over all shards; all, where there are fewer."
    )
    seed: int = Field(1, ge=0, description="Seed of that draw; the curvature's own would draw what it was fitted on.")
    ranks: Ranks = Field((8, 16, 32, 64), description="Ranks of query gradients per module.")
    blocks: Blocks = Field(
        (2, 4),
        description="Diagonal blocks that the fit's covariances are cut into, at full rank and at the study's own; "
        "each number takes one more pass over the fit's sample.",
    )
    precisions: Precisions = Field(
        ("bfloat16",),
        description="Precisions, each of the whole model, and bfloat16 also of the products of scoring alone.",
    )
    kfac: bool = Field(True, description="K-FAC in place of EK-FAC, at full rank.")

    @classmethod
    def of_precisions(cls, precisions: tuple[str, ...]) -> AblationSpec:
        """What a study in these precisions is compared by that did not ask: they alone, on few documents."""
        return cls(documents=64, ranks=(), blocks=(), precisions=precisions, kfac=False)


def _kind(value: Any) -> str:
    return "off" if value is False else "fields"


AblationOrFalse = Annotated[
    Annotated[AblationSpec, Tag("fields")] | Annotated[Literal[False], Tag("off")], Discriminator(_kind)
]
"""With a discriminator, so that a mistake in a field is not also told as a `false` that is missing."""
