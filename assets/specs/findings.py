"""What a study file says about its findings: how deep they look, how sure they must be, what else they may use."""

from __future__ import annotations

from typing import Annotated, Literal
from urllib.parse import urlsplit

from pydantic import AfterValidator, Field, field_validator, model_validator

from assets.specs.model import ModelSpec
from assets.specs.spec import Name, Spec


def _rising(values: tuple[float, ...]) -> tuple[float, ...]:
    if not values or list(values) != sorted(set(values)):
        raise ValueError("holds no numbers, or numbers that do not rise; write each once, the smallest first")
    return values


Count = Annotated[int, Field(gt=0)]
Share = Annotated[float, Field(gt=0, le=1)]
Counts = Annotated[tuple[Count, ...], AfterValidator(_rising)]
Shares = Annotated[tuple[Share, ...], AfterValidator(_rising)]


class JudgeSpec(Spec):
    """A language model that reads documents and gives verdicts: exactly one of `endpoint` and `local`."""

    name: Name = Field(description="The judge's name in the table of verdicts.")
    endpoint: str | None = Field(
        None, description="Address of an OpenAI-compatible API, up to and without /chat/completions."
    )
    model: str | None = Field(None, min_length=1, description="The model's name at the endpoint.")
    key_variable: str | None = Field(
        None, min_length=1, description="Environment variable that holds the endpoint's key; the key is kept nowhere."
    )
    request: dict[str, str | int | float | bool | None] = Field(
        {}, description="Fields of each request to the endpoint; null leaves out one that is sent by default."
    )
    timeout_seconds: float = Field(60, gt=0, description="How long the endpoint may take for one verdict.")
    attempts: int = Field(5, ge=1, le=20, description="Requests before an endpoint that is busy or away is given up.")
    at_once: int = Field(4, ge=1, le=64, description="Requests that the endpoint gets at the same time.")
    local: ModelSpec | None = Field(None, description="A local Hugging Face model, or one of the hub, instead.")
    max_new_tokens: int = Field(64, ge=1, description="Longest verdict; a model that reasons first needs more.")
    documents: int = Field(10, ge=1, description="Top documents per query that are judged.")
    document_characters: int = Field(8000, ge=1, description="Longer documents are cut to this length in the prompt.")

    @field_validator("endpoint")
    @classmethod
    def _is_an_address(cls, endpoint: str | None) -> str | None:
        if endpoint is None:
            return None
        parts = urlsplit(endpoint)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise ValueError("is no address; write it like https://host/v1")
        if parts.username or parts.password or parts.query:
            raise ValueError("holds more than an address; put the key into an environment variable (key_variable)")
        return endpoint.rstrip("/").removesuffix("/chat/completions")

    @model_validator(mode="after")
    def _one_origin(self) -> JudgeSpec:
        if (self.endpoint is None) == (self.local is None):
            raise ValueError("give exactly one of endpoint and local")
        if self.endpoint and not self.model:
            raise ValueError("an endpoint needs model, the model's name there")
        if self.local and self.local.train:
            raise ValueError("a judge cannot be trained here; give local a path, or a hub id with a revision")
        if misplaced := [name for name in ("model", "key_variable", "request") if self.local and getattr(self, name)]:
            raise ValueError(f"{misplaced[0]} belongs to an endpoint; leave it out with local")
        return self


class FindingsSpec(Spec):
    """How the findings are made; the defaults are the paper's depths and cut-offs."""

    ranking: Literal["normed", "raw"] = Field(
        "normed",
        description="What answers, kinds and sources are ranked by: the score divided by the document's gradient norm, "
        "as the paper's lists are, or the score itself. Correlations, magnitudes and power laws are of raw scores.",
    )
    depth: int = Field(500, ge=2, description="Top documents per query in which answers are sought and slopes fitted.")
    kinds_depth: int = Field(100, ge=1, description="Top documents per query whose kinds are counted.")
    cutoffs: Counts = Field((50, 500, 5000, 50_000, 500_000), description="Documents at each end, for sources.")
    shares: Shares = Field((0.0001, 0.001, 0.01, 0.1, 1.0), description="Shares of all documents, for magnitude.")
    counts: Counts = Field((10, 50, 100, 500), description="Numbers of documents, for magnitude.")
    resamples: int = Field(10_000, ge=1, description="Bootstrap samples and permutations of queries.")
    seed: int = Field(0, ge=0, description="Seed of those.")
    compare: tuple[Name, ...] = Field((), description="Other studies whose scores for the same queries are compared.")
    bm25: bool = Field(False, description="Rank documents by BM25 too, as another method in the same tables.")
    document_rules: str | None = Field(
        None, min_length=1, description="File of rules that tell a document's kind, from the study file's directory."
    )
    judge: JudgeSpec | None = Field(None, description="A language model as judge; left out: none is asked.")
