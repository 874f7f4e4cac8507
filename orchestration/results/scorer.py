"""One's own texts and queries, scored with what a study left: from Python, without a run, and nothing is written."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING

from assets.step.reading import Reading
from assets.study import index_search, own_query, own_texts
from assets.study.opened import OpenedStudy, tables_opened
from compute.errors import BadInput

if TYPE_CHECKING:
    import polars as pl

    from assets.lake.lake import Lake
    from assets.specs.study import Study
    from assets.study.own_query import AskedQuery
    from orchestration.results.views import Moment


class Scorer:
    """Scores with a study's model, curvature and queries, which are loaded when they are first needed, and once.

    `Results.scorer` makes one. A score is positive where more of the text would lower the loss of the completion.
    Mistakes are BadInput, one sentence each.

    >>> scorer = Results.open().scorer("demo")
    >>> scores = scorer.score_texts(["The Lumsa flows through Torgo."])
    >>> scores.filter(method="ekfac").sort("normed_score", descending=True).head(5).collect()
    >>> scorer.score_query("Question: Which river flows through Torgo? Answer:").head(5).collect()
    """

    def __init__(self, lake: Lake, study: Study, moment: Moment) -> None:
        self._reading, self._lock = Reading(lake), threading.Lock()
        for table in tables_opened(study):
            if (version := moment.version(lake, table.path)) is not None:
                self._reading.pin(table, version)
        self.opened = OpenedStudy(self._reading, study)

    @property
    def versions(self) -> dict[str, int]:
        """The version of each table that has been read so far; it stays the same."""
        return dict(self._reading.versions)

    def score_texts(self, texts: Sequence[str] | str, source: str | None = None) -> pl.LazyFrame:
        """Scores of texts for all queries of the study, as if its pass had found them in the corpus.

        One row per method, query and window: a text of more than `max_tokens` tokens is cut as documents are. Columns:
        text_number (from 0), window, source (as given), text, method, query_id, score, normed_score (score ÷ norm),
        norm of the window's gradient, loss (summed, in nats) and tokens (their number). Raises BadInput for an empty
        text, and for one without a token that could be predicted.
        """
        with self._alone():
            windows = own_texts.cut_texts(self.opened, texts, source)
            return own_texts.score_windows(self.opened, windows).drop("document_id").lazy()

    def ask(
        self,
        prompt: str,
        completion: str | None = None,
        *,
        methods: Sequence[str] | str | None = None,
        rank: int | None = None,
    ) -> AskedQuery:
        """A query that is in no set, ready to be scored: its completion (the model's own greedy one, unless given), its
        nats, and its gradient by each method (the study's, unless named).

        `rank` left out keeps the gradient whole, so that scores are exact. Raises BadInput for an empty prompt or
        completion, one that is too long for the model, and an unknown method.
        """
        with self._alone():
            return own_query.ask(self.opened, prompt, completion, methods=methods, rank=rank)

    def score_query(
        self,
        query: str | AskedQuery,
        completion: str | None = None,
        *,
        documents: Sequence[str] | str | None = None,
        texts: Sequence[str] | str | None = None,
        methods: Sequence[str] | str | None = None,
        rank: int | None = None,
        ranking: str = "normed",
        count: int | None = None,
    ) -> pl.LazyFrame:
        """What drives a query that is in no set: a prompt with its completion, or what `ask` gave.

        Scored are stored documents by their ids, one's own texts, or both; without either the whole corpus, of which
        the first `count` (the study's top_k) by each method are given. One row per method and document or window of a
        text, best first by score ÷ norm (normed) or score (raw), with the columns of the table rankings that apply:
        shares per token and module too. Raises BadInput as `ask` does, for an unknown document or ranking, and where
        completion, methods or rank are given of a query that has been asked already.
        """
        own_query.order_of(ranking)
        is_asked = isinstance(query, own_query.AskedQuery)
        if is_asked:
            _refuse_given({"completion": completion, "methods": methods, "rank": rank})
        if count is not None and count < 1:
            raise BadInput(f"count is {count}; give at least 1, or leave it out")
        with self._alone():
            windows = self._given(documents, texts)  # first, so that a mistake is told before the model is loaded
        asked = query if is_asked else self.ask(query, completion, methods=methods, rank=rank)
        with self._alone():
            if windows is None:
                count = count or self.opened.study.spec.options.top_k
                best = own_query.best_documents(self.opened, asked, ranking=ranking, count=count)
                windows = own_query.stored_documents(self.opened, best)
            return own_query.ranked_for(self.opened, asked, windows, ranking=ranking, count=count).lazy()

    def find(
        self,
        query: str | AskedQuery,
        completion: str | None = None,
        *,
        ranking: str = "normed",
        count: int | None = None,
        candidates: int | None = None,
    ) -> pl.LazyFrame:
        """What drives a query that is in no set, found in the study's index of documents, in seconds.

        The index proposes `candidates` documents (the study's `options.index.candidates`), which are then scored as
        `score_query` does; of these the first `count` (the study's top_k) by EK-FAC are given, best first, with the
        `estimate` by which they were proposed. Raises BadInput as `score_query` does, for a query that was not asked
        by ekfac, and where the index is not there or of other documents, model, curvature or options than now.
        """
        is_asked = isinstance(query, own_query.AskedQuery)
        normed = own_query.order_of(ranking) == "normed_score"
        if is_asked:
            _refuse_given({"completion": completion})
        for name, value in (("count", count), ("candidates", candidates)):
            if value is not None and value < 1:
                raise BadInput(f"{name} is {value}; give at least 1, or leave it out")
        self.refuse_without_index()  # first, so that a mistake is told before the model is loaded
        asked = query if is_asked else self.ask(query, completion, methods="ekfac")
        if "ekfac" not in asked.gradients:
            raise BadInput("the index estimates scores of ekfac, by which the query was not asked; ask it by ekfac")
        asked = replace(asked, gradients={"ekfac": asked.gradients["ekfac"]})
        options = self.opened.study.spec.options
        count = count or options.top_k
        proposed = max(count, candidates or options.index.candidates)
        with self._alone():
            found = index_search.proposed_documents(self.opened, asked, normed=normed, count=proposed)
            windows = own_query.stored_documents(self.opened, found["document_id"].to_list())
            rows = own_query.ranked_for(self.opened, asked, windows, ranking=ranking, count=count)
            return rows.join(found.drop("norm"), on="document_id", how="left", maintain_order="left").lazy()

    def refuse_without_index(self) -> None:
        """Raises BadInput where the study has no index by which `find` could answer."""
        with self._alone():
            index_search.refuse_without_index(self._reading, self.opened.study)

    def _given(self, documents: Sequence[str] | str | None, texts: Sequence[str] | str | None) -> pl.DataFrame | None:
        import polars as pl

        parts = [] if documents is None else [own_query.stored_documents(self.opened, documents)]
        parts += [] if texts is None else [own_texts.cut_texts(self.opened, texts)]
        return pl.concat(parts) if parts else None

    @contextmanager
    def _alone(self) -> Iterator[None]:
        """One at a time, since what is captured of a model's passes is captured by hooks on it; a damaged file becomes
        a sentence."""
        with self._lock, self._reading.lake.reading(self._reading.tables_read):
            yield


def _refuse_given(options: dict[str, object]) -> None:
    """Of a query that has been asked: its gradient is what it is."""
    if given := [name for name, value in options.items() if value is not None]:
        raise BadInput(f"the query has been asked already, without {' and '.join(given)}; give it to ask, not here")
