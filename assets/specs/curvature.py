"""How a study declares its curvature fit."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from assets.specs.spec import Name, Spec


class CurvatureSpec(Spec):
    """One EK-FAC fit, shared by every study that names it with the same model and corpus."""

    name: Name = Field(description="Name in asset keys: curvature/<name>/covariances.")
    sample_documents: int = Field(10_000, gt=0, description="Documents in the pinned sample (the paper: 100,000).")
    labels: Literal["sampled", "empirical"] = Field(
        "sampled", description="Labels from the model (the true Fisher) or from the data (the empirical one)."
    )
    modules: Literal["mlp", "all"] | tuple[str, ...] = Field(
        "mlp", description="Tracked modules: all MLP linear layers, all linear layers, or patterns of module names."
    )
    seed: int = Field(0, ge=0, description="Seed of the sample and of sampled labels.")
    token_budget: int = Field(8192, gt=0, description="Padded tokens per batch; it does not change the result.")

    def identity(self) -> dict:
        """What the fit depends on."""
        return self.model_dump(exclude={"token_budget"})
