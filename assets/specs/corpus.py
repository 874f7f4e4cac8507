"""What a study file says about a corpus: where its records are, how they are mapped, sharded and cut into documents."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field, model_validator

from assets.specs.spec import FieldName, Name, Paths, Spec

Format = Literal["jsonl", "parquet", "text", "datasets"]


class FieldMapping(Spec):
    """Which fields of a source record hold what; `a.b` reaches into a nested record when there is no field `a.b`."""

    text: FieldName = Field("text", description="the field that holds the text")
    id: FieldName | None = Field(None, description="the record's own id; left out: its file and line")
    source: FieldName | None = Field(None, description="where the record is from; left out: its file's name")

    @property
    def named(self) -> dict[str, str]:
        """The mapped fields only: `{"text": "body", "id": "key"}`."""
        return {role: field for role, field in self.model_dump().items() if field is not None}


class TokenizerTraining(Spec):
    """Settings of a tokenizer that is trained on a sample of the corpus."""

    vocab_size: int = Field(4096, ge=2, description="tokens in the vocabulary, special ones included")
    sample_records: int = Field(100_000, ge=1, description="records of the pinned sample it is trained on")
    seed: int = Field(0, ge=0, description="seed of that sample")


class TokenizerSource(Spec):
    """Where the corpus's tokenizer comes from: the model's checkpoint (the default), or training."""

    checkpoint: bool = Field(True, description="take the model's own tokenizer")
    train: TokenizerTraining | None = Field(None, description="train one on a sample of the records")

    @model_validator(mode="before")
    @classmethod
    def _training_replaces_the_default(cls, data: Any) -> Any:
        if isinstance(data, dict) and data.get("train") is not None:
            return {"checkpoint": False, **data}
        return data

    @model_validator(mode="after")
    def _exactly_one(self) -> TokenizerSource:
        if self.checkpoint == (self.train is not None):
            raise ValueError("give either 'checkpoint: true' or 'train: {…}'")
        return self


class CorpusSpec(Spec):
    """The documents of one data set and how they are cut: either files (`path`) or a Hugging Face data set (`hub`)."""

    name: Name = Field(description="the corpus's name in asset keys and tables")
    path: Paths | None = Field(None, description="file, directory, glob or a list, from the study file's directory")
    hub: FieldName | None = Field(None, description="Hugging Face data set, owner/name; it is streamed")
    config: str | None = Field(None, description="configuration of the hub data set")
    split: FieldName = Field("train", description="split of the hub data set or of a saved DatasetDict")
    revision: str | None = Field(None, description="commit, tag or branch of the hub data set; left out: the newest")
    max_records: int | None = Field(None, ge=1, description="records taken from the hub data set's beginning")
    format: Format | None = Field(None, description="format of the files; left out: told by their suffixes")
    fields: FieldMapping = Field(FieldMapping(), description="which fields hold text, id and source")
    shard_records: int = Field(5000, ge=1, description="records per shard, the unit of work and retry")
    max_tokens: int = Field(256, ge=2, description="tokens of the longest document, special ones included")
    end_of_text: bool = Field(False, description="append the tokenizer's end-of-sequence token to each record")
    max_rejected: float = Field(0.05, ge=0, le=1, description="share of rejected records that is tolerated")
    tokenizer: TokenizerSource = Field(TokenizerSource(), description="where the tokenizer comes from")

    @model_validator(mode="after")
    def _exactly_one_place(self) -> CorpusSpec:
        if (self.path is None) == (self.hub is None):
            raise ValueError("give exactly one of 'path' (files) and 'hub' (a Hugging Face data set)")
        if self.hub is not None and self.max_records is None:
            raise ValueError("'hub' is streamed and needs 'max_records': how many records to take from its beginning")
        if self.hub is not None and self.format is not None:
            raise ValueError("'format' belongs to 'path'; leave it out with 'hub'")
        hub_only = [name for name in ("config", "revision", "max_records") if getattr(self, name) is not None]
        if self.hub is None and hub_only:
            raise ValueError(f"'{hub_only[0]}' belongs to 'hub'; leave it out with 'path'")
        return self

    @property
    def owner(self) -> str:
        """How messages name this corpus."""
        return f"corpus {self.name}"
