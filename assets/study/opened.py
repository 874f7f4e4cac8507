"""A study as its last run left it, opened to score with: model, tokenizer, curvature and the queries' gradients.

Nothing is scored here and nothing is written. Each part is read when it is first asked for, once, and at versions that
stay the same (`reading.versions`).
"""

from __future__ import annotations

from dataclasses import replace
from functools import cached_property
from typing import TYPE_CHECKING

from assets.corpus.documents import documents_table
from assets.corpus.tokenizer import stored_tokenizer, tokenizer_table
from assets.curvature.factors import (
    covariances_table,
    document_tokens,
    eigenbasis_table,
    eigenvalues_table,
    stored_curvature,
)
from assets.curvature.sample import sample_table, typical_tokens
from assets.model.checkpoint import refuse_changed_files
from assets.model.opening import open_traced_model
from assets.study.completions import completions_table, query_side_tables
from assets.study.document_index import document_index_table, study_sketch
from assets.study.influence import pass_over_documents
from assets.study.query_gradients import gradients_stamp, query_gradients_table
from assets.study.stored_gradients import stored_gradients
from compute.errors import BadInput
from compute.methods import whitens

if TYPE_CHECKING:
    from assets.lake.tables import Table
    from assets.specs.study import Study
    from assets.step.reading import Reading
    from compute.curvature import Curvature
    from compute.gradient_sketch import GradientSketch
    from compute.influence import InfluencePass
    from compute.tracked_modules import TrackedModule


def tables_opened(study: Study) -> tuple[Table, ...]:
    """The tables that are read of a study to score with it."""
    spec = study.spec
    tables_of_fit = (sample_table, covariances_table, eigenbasis_table, eigenvalues_table)
    of_fit = (table(spec.curvature.name) for table in tables_of_fit)
    of_corpus = (tokenizer_table(spec.corpus.name), documents_table(spec.corpus.name))
    of_study = (completions_table(study.name), query_gradients_table(study.name))
    index = (document_index_table(study.name),) if spec.options.index else ()
    return (*of_corpus, *query_side_tables(study), *of_fit, *of_study, *index)


class OpenedStudy:
    """Raises BadInput, before anything large is read, where the study has not been run, or otherwise than it says."""

    def __init__(self, reading: Reading, study: Study) -> None:
        self.reading, self.study = reading, study
        if reading.fingerprint(query_gradients_table(study.name)) != gradients_stamp(reading, study):
            raise BadInput(self._is_otherwise("query gradients are of other settings, of another model or fit"))

    @property
    def model(self):
        """The model whose documents' gradients are taken."""
        return self._traced[0]

    @property
    def modules(self) -> tuple[TrackedModule, ...]:
        return self._traced[1]

    @cached_property
    def query_model(self):
        """The model that completes prompts: the traced one, unless the study names a query-side model."""
        if not self.study.spec.query_model:
            return self.model
        refuse_changed_files(self.reading, self.study.spec.query_model, self.study.base)
        return open_traced_model(self.reading, self.study, query_side=True)[0]

    @cached_property
    def tokenizer(self):
        return stored_tokenizer(self.reading, self.study.spec.corpus.name)[0]

    @cached_property
    def curvature(self) -> Curvature:
        """The whole fit on the model's device."""
        curvature = stored_curvature(self.reading, self.study, self.model, self.modules)
        # A query may be asked by kfac also where the study does not list it.
        return replace(curvature, document_tokens=document_tokens(self.reading, self.study.spec.curvature.name))

    @cached_property
    def sketch(self) -> GradientSketch:
        """That of the study's index of documents."""
        return study_sketch(self.study, self.curvature, self.modules)

    @cached_property
    def gradients(self) -> dict[tuple[str, str], dict]:
        """The stored low-rank gradients per module name, by method and query, sorted."""
        from compute.routes import factors_bytes

        most_bytes = factors_bytes(self.study.spec.options.memory_bytes)
        gradients = stored_gradients(self.reading, self.study.name, most_bytes)
        names = {module.name for module in self.modules}
        if any(names != of_query.keys() for of_query in gradients.values()):
            raise BadInput(self._is_otherwise("query gradients are of other modules"))
        return gradients

    @cached_property
    def typical_tokens(self) -> int:
        return typical_tokens(self.reading, self.study.spec.curvature.name)

    @cached_property
    def influence_pass(self) -> InfluencePass:
        """The pass by which the study's shards are scored: all its queries and methods at once."""
        return self.pass_along([(method, each) for (method, _), each in self.gradients.items()])

    def pass_along(self, gradients: list[tuple[str, dict]], products: str = "") -> InfluencePass:
        """The same along other gradients than the stored ones, each with its method, or in another precision than the
        study's."""
        curvature = self.curvature if whitens(method for method, _ in gradients) else None
        typical = self.typical_tokens
        return pass_over_documents(self.study, self.model, self.modules, gradients, typical, curvature, products)

    @cached_property
    def _traced(self) -> tuple:
        refuse_changed_files(self.reading, self.study.spec.model, self.study.base)
        return open_traced_model(self.reading, self.study)

    def _is_otherwise(self, how: str) -> str:
        return f"study {self.study.name}: its {how} than the study has now; run it again"
