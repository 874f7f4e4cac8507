"""Which settings are compared: one thing changed at a time, diagonal blocks also at the study's own rank (as the paper
did), and the study's own setting."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from assets.specs.study import Study

FLOAT32 = "float32"
OF_PRODUCTS = ("bfloat16",)  # precisions that options.products has too


@dataclass(frozen=True)
class Variant:
    """One setting. What is left at its default is as in full-rank float32 EK-FAC.

    `dtype` is the precision of the model (of both models, where queries have one of their own), `products` that of the
    products of scoring; `blocks` are the diagonal blocks that the fit's A and S are cut into (1: none).
    """

    rank: int | Literal["full", "auto"] = "full"
    products: str = FLOAT32
    dtype: str = FLOAT32
    blocks: int = 1
    method: str = "ekfac"

    @property
    def name(self) -> str:
        """What differs, in words."""
        differs = {
            "K-FAC": self.method == "kfac",
            f"rank {self.rank}": self.rank != "full",
            f"{self.blocks} blocks": self.blocks > 1,
            f"products in {self.products}": self.products != FLOAT32,
            f"model in {self.dtype}": self.dtype != FLOAT32,
        }
        return ", ".join(words for words, is_so in differs.items() if is_so) or "full rank"


REFERENCE = Variant()


def own_variant(study: Study) -> Variant:
    """How the study itself scores by EK-FAC; a query-side model of another precision is taken in that of the model."""
    options = study.spec.options
    return Variant(rank=options.rank, products=options.products, dtype=study.spec.model.dtype)


def variants_of(study: Study) -> list[Variant]:
    """The reference first, then what is compared with it; variants of one model and one curvature stand together."""
    spec, rank = study.spec.ablation, study.spec.options.rank
    own = own_variant(study)
    ranks = sorted({*spec.ranks, *([rank] if isinstance(rank, int) else [])})
    listed = [
        REFERENCE,
        *(Variant(rank=each) for each in (*ranks, rank)),
        *(Variant(products=each) for each in spec.precisions if each in OF_PRODUCTS),
        own,
        *([Variant(method="kfac")] if spec.kfac else []),
        *(variant for each in spec.blocks for variant in (Variant(blocks=each), Variant(rank=rank, blocks=each))),
        *(Variant(dtype=each) for each in spec.precisions),
    ]
    return sorted(dict.fromkeys(listed), key=lambda each: (each.dtype != FLOAT32, each.dtype, each.blocks))
