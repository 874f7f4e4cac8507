"""The declaration of a study: corpus × model × curvature × queries × options, one YAML file each."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

import dagster as dg
from pydantic import Field, model_validator

from assets.specs.ablation import AblationOrFalse, AblationSpec
from assets.specs.corpus import CorpusSpec
from assets.specs.curvature import CurvatureSpec
from assets.specs.findings import FindingsSpec
from assets.specs.model import ModelSpec
from assets.specs.queries import QueriesSpec
from assets.specs.spec import Name, Spec

OWNER = r"^(team:[A-Za-z0-9_]+|[^@\s]+@[^@\s]+\.[^@\s]+)$"


class IndexSpec(Spec):
    """The index by which documents are found for a query that is not in the set."""

    dimensions: int = Field(
        32_768,
        ge=64,
        description="Bits kept of each document's gradient, a power of two: 32,768 are 4 KiB a document.",
    )
    candidates: int = Field(
        400, gt=0, description="Documents that the index proposes for a query, to be scored exactly."
    )
    min_found: float = Field(
        0.8,
        ge=0,
        le=1,
        description="Share of a query's best 10 documents among the proposed ones, in the mean over the set's queries, "
        "below which the index is flagged.",
    )

    @model_validator(mode="after")
    def _power_of_two(self) -> IndexSpec:
        if self.dimensions & (self.dimensions - 1):
            raise ValueError(f"dimensions is {self.dimensions}; give a power of two, such as 32768")
        return self


class RefinementSpec(Spec):
    """How astra refines query gradients: each pass runs these documents through the model for each query."""

    passes: int = Field(8, ge=1, description="Steps of the iteration, each a pass over `documents` per query.")
    documents: int = Field(
        64, ge=1, description="Documents of the curvature's sample that the Gauss-Newton matrix is taken of, its first."
    )


class StudyOptions(Spec):
    """How documents are scored and ranked."""

    methods: tuple[Literal["ekfac", "dot", "kfac", "cosine", "trackstar", "astra"], ...] = Field(
        ("ekfac", "dot"),
        min_length=1,
        description="Scores to compute in the one pass: EK-FAC influence, gradient dot product, K-FAC influence, "
        "gradient cosine, TrackStar-style cosine of whitened gradients, ASTRA-style refined influence.",
    )
    refinement: RefinementSpec = Field(
        default_factory=RefinementSpec, description="How astra refines the queries' gradients."
    )
    rank: int | Literal["full", "auto"] = Field(
        32, description="Rank of query gradients per module; auto: chosen per query and module by `agreement`."
    )
    agreement: float = Field(
        0.995,
        gt=0,
        lt=1,
        description="With rank auto: correlation with full-rank scores that ranks are chosen for, under the curvature.",
    )
    agreement_documents: int = Field(
        64,
        ge=0,
        description="Documents of the curvature's sample on which each query's low-rank gradient is compared with the "
        "full-rank one; with rank auto, ranks are raised until `agreement` is met there. 0: not measured.",
    )
    damping: float = Field(
        0.1,
        ge=0,
        le=1e6,  # far above, scores are 0 in float32
        description="λ as a multiple of each module's mean(Λ), and for K-FAC of its own eigenvalues' mean; at a "
        "million a module's scores are dot's, divided by λ.",
    )
    top_k: int = Field(50, gt=0, description="Documents listed at each end of a ranking.")
    max_new_tokens: int = Field(64, gt=0, description="Longest completion that the model is asked for.")
    token_budget: int = Field(8192, gt=0, description="Padded tokens per batch; it does not change the result.")
    products: Literal["float32", "bfloat16"] = Field(
        "float32",
        description="Precision in which scoring multiplies gradients; modules are added up in float32. bfloat16 is "
        "faster where the device has instructions for it; rankings tell how well the scores agree with exact ones.",
    )
    memory_mib: int = Field(
        2048,
        ge=64,
        description="Memory for gradients next to the model, of queries and of documents, however many there are, and "
        "for the curvature's factors where queries' gradients are taken; it does not change the result.",
    )
    memory_check: Literal["refuse", "warn"] = Field(
        "refuse",
        description="Where a step's estimated memory is more than a CPU has left, or memory_mib more than a GPU: "
        "refuse it before its work, or warn and go on, for whoever knows better than the estimate.",
    )
    min_agreement: float = Field(
        0.9,
        ge=-1,
        le=1,
        description="Pearson correlation of low-rank with exact scores below which rankings are flagged.",
    )
    by_query: bool = Field(
        True,
        description="Keep the scores a second time, clustered by query: a query's top is read at once however many "
        "shards there are, for twice the bytes of scores.",
    )
    index: IndexSpec | None = Field(
        None,
        description="Index the documents' gradients for headwater ask: one more pass over the corpus, and some KiB a "
        "document; {} takes the defaults.",
    )
    ablation: AblationOrFalse | None = Field(
        None,
        description="Compare scores of cheaper settings with full-rank ones on a sample of documents. Left out: only a "
        "precision below float32 of model.dtype or options.products, on 64 documents; false: nothing.",
    )

    @model_validator(mode="after")
    def _positive_rank(self) -> StudyOptions:
        if isinstance(self.rank, int) and self.rank < 1:
            raise ValueError("rank must be at least 1, 'full' or 'auto'")
        return self

    @model_validator(mode="after")
    def _refined_where_damped(self) -> StudyOptions:
        if "astra" in self.methods and not self.damping:
            raise ValueError("astra solves a damped system; give damping above 0, or leave astra out of methods")
        return self

    @model_validator(mode="after")
    def _each_method_once(self) -> StudyOptions:
        if twice := [method for method in set(self.methods) if self.methods.count(method) > 1]:
            raise ValueError(f"methods lists {twice[0]} twice")
        return self

    @model_validator(mode="after")
    def _index_is_of_ekfac(self) -> StudyOptions:
        if self.index and "ekfac" not in self.methods:
            raise ValueError("index estimates scores of ekfac, which methods does not list; add it, or leave index out")
        return self

    @model_validator(mode="after")
    def _ablation_is_of_ekfac(self) -> StudyOptions:
        if self.ablation and "ekfac" not in self.methods:
            raise ValueError("ablation compares scores by ekfac, which methods does not list; add it, or leave it out")
        return self

    @property
    def memory_bytes(self) -> int:
        return self.memory_mib * 2**20

    @property
    def kept_rank(self) -> int | None:
        """Rank as the engine takes it: None for full rank, and where ranks are chosen."""
        return self.rank if isinstance(self.rank, int) else None

    @property
    def measures_agreement(self) -> bool:
        """Whether low ranks are compared with the full one on documents."""
        return self.agreement_documents > 0 and self.rank != "full"

    @property
    def rank_agreement(self) -> float | None:
        """The agreement by which ranks are chosen, where they are."""
        return self.agreement if self.rank == "auto" else None


class AutomationSpec(Spec):
    """What runs without a hand on it, as the study's author wants it; the Dagster UI can switch each on and off too."""

    watch: bool = Field(
        False, description="Look for source files that are new, changed or gone, and read and score their shards."
    )
    every_seconds: int = Field(60, ge=10, le=604_800, description="How often to look: at least once a week.")
    settle_seconds: int = Field(10, ge=0, description="How long a file must have been left alone before it is read.")
    catch_up: str | None = Field(
        None, description="When to score what is missing, as a cron schedule ('0 2 * * *': nightly at two)."
    )
    timezone: str = Field("UTC", description="Time zone of that schedule.")

    @model_validator(mode="after")
    def _schedule_can_be_read(self) -> AutomationSpec:
        try:
            dg.ScheduleDefinition(
                job_name="any", cron_schedule=self.catch_up or "@daily", execution_timezone=self.timezone
            )
        except dg.DagsterInvalidDefinitionError as error:
            what = f"catch_up '{self.catch_up}'" if "cron" in str(error) else f"timezone '{self.timezone}'"
            raise ValueError(
                f"{what} cannot be read; write a cron schedule such as '0 2 * * *', and a zone such as UTC"
            ) from error
        return self


class StudySpec(Spec):
    """One study."""

    study: Name = Field(description="Name in asset keys: study/<name>/influence.")
    corpus: CorpusSpec = Field(description="The documents that may have taught the model.")
    model: ModelSpec = Field(description="The model whose documents' gradients are taken.")
    query_model: ModelSpec | None = Field(
        None, description="Checkpoint of the same architecture for completions and query gradients (a fine-tuned one)."
    )
    curvature: CurvatureSpec = Field(description="The EK-FAC fit.")
    queries: QueriesSpec = Field(description="The completions to explain.")
    owners: tuple[Annotated[str, Field(pattern=OWNER)], ...] = Field(
        ("team:headwater",), description="Who answers for the study: team:name, or an address; shown in the Dagster UI."
    )
    automation: AutomationSpec = Field(default_factory=AutomationSpec, description="What runs by itself.")
    options: StudyOptions = Field(default_factory=StudyOptions, description="How documents are scored and ranked.")
    findings: FindingsSpec = Field(default_factory=FindingsSpec, description="How the findings are made.")

    @property
    def ablation(self) -> AblationSpec | None:
        """The one that is made: as options.ablation has it; left out, of the study's own precisions below float32."""
        stated, own = self.options.ablation, (self.model.dtype, self.options.products)
        if stated is not None:
            return stated or None
        lowered = tuple(each for each in ("bfloat16", "float16") if each in own)
        return AblationSpec.of_precisions(lowered) if lowered and "ekfac" in self.options.methods else None

    @model_validator(mode="after")
    def _ablation_cuts_whole_covariances(self) -> StudySpec:
        if self.options.ablation and self.options.ablation.blocks and self.curvature.blocks > 1:
            raise ValueError(
                "options.ablation.blocks cuts whole covariances, and curvature.blocks is "
                f"{self.curvature.blocks}; write blocks: [] there"
            )
        return self

    @model_validator(mode="after")
    def _tokenizer_has_an_origin(self) -> StudySpec:
        if self.model.train and not self.corpus.tokenizer.train:
            raise ValueError(
                "a model trained here has no tokenizer of its own; declare corpus.tokenizer: {train: {vocab_size: …}}"
            )
        if self.corpus.tokenizer.train and not self.model.train:
            raise ValueError(
                "corpus.tokenizer.train belongs to a model that is trained here; model "
                f"{self.model.name} has a tokenizer of its own, so leave it out"
            )
        if self.query_model and self.query_model.train:
            raise ValueError("query_model names a checkpoint (path or hub); it cannot be trained here")
        return self


@dataclass(frozen=True)
class Study:
    """A study file as read: what it declares, and the directory that its relative paths start from."""

    spec: StudySpec
    base: str

    @property
    def name(self) -> str:
        return self.spec.study
