"""What a study file says about a query set: its file, and which fields hold prompt, completion and the rest."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from assets.specs.spec import FieldName, Name, Paths, Spec


class QueryFields(Spec):
    """Which fields of a query's row hold what.

    A field that is left at its default name may be absent from the file; one that the study renames must be there.
    """

    id: FieldName | None = Field("id", description="the query's id; absent: q0001, q0002, … by row")
    prompt: FieldName = Field("prompt", description="the prompt; no loss is taken on it")
    completion: FieldName | None = Field("completion", description="absent or null: the model's own greedy one")
    task: FieldName | None = Field("task", description="the task, such as arithmetic")
    kind: FieldName | None = Field("kind", description="factual, reasoning, control, or a word of one's own")
    answer: FieldName | None = Field("answer", description="the right answer, looked for in the completion")
    match: FieldName | None = Field("match", description="how the answer must stand there: contains or ends")
    step_answers: FieldName | None = Field(
        "step_answers", description="what the steps to the answer come to, a list of texts looked for in documents"
    )


class QueriesSpec(Spec):
    """One set of queries: a JSON Lines (plain, gzip, zstd) or Parquet file, one row per query."""

    name: Name = Field(description="the set's name in asset keys and tables")
    path: Paths = Field(description="file or glob, or a list of them, from the study file's directory")
    format: Literal["jsonl", "parquet"] | None = Field(None, description="left out: told by the suffix")
    fields: QueryFields = Field(QueryFields(), description="which fields hold prompt, completion and the rest")

    @property
    def owner(self) -> str:
        """How messages name this set."""
        return f"queries {self.name}"
