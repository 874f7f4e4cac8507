"""How a study declares its curvature fit."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import AfterValidator, Field

from assets.specs.spec import Name, Spec


def _some(modules: str | tuple[str, ...]) -> str | tuple[str, ...]:
    if not modules:
        raise ValueError("is empty; write mlp, all, or patterns of module names")
    return modules


Modules = Annotated[Literal["mlp", "all"] | tuple[str, ...], AfterValidator(_some)]


class CurvatureSpec(Spec):
    """One EK-FAC fit, shared by every study that names it with the same model and corpus."""

    name: Name = Field(description="Name in asset keys: curvature/<name>/covariances.")
    sample_documents: int = Field(10_000, gt=0, description="Documents in the pinned sample (the paper: 100,000).")
    labels: Literal["sampled", "empirical"] = Field(
        "sampled", description="Labels from the model (the true Fisher) or from the data (the empirical one)."
    )
    modules: Modules = Field(
        "mlp", description="Tracked modules: all MLP linear layers, all linear layers, or patterns of module names."
    )
    blocks: int = Field(
        1,
        ge=1,
        description="Diagonal blocks that covariances are cut into, for large layers (the paper: 2 at 7 B parameters, "
        "4 at 35 B); it divides the inputs and outputs of every tracked module.",
    )
    seed: int = Field(0, ge=0, lt=2**64, description="Seed of the sample and of sampled labels, of 64 bits.")
    token_budget: int = Field(8192, gt=0, description="Padded tokens per batch; it does not change the result.")
    memory_mib: int | None = Field(
        None,
        ge=1,
        description="Memory for the factors of modules that are fitted in one pass over the sample; where it does not "
        "hold all, there are more passes. Left out: one pass. It does not change the result.",
    )

    @property
    def memory_bytes(self) -> int | None:
        return None if self.memory_mib is None else self.memory_mib * 2**20

    def identity(self) -> dict:
        """What the fit depends on."""
        identity = self.model_dump(exclude={"token_budget", "memory_mib"})
        if self.blocks == 1:  # whole matrices are not named, so that older fits stay current
            del identity["blocks"]
        return identity
