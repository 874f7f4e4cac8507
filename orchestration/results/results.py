"""The lake's tables as Polars frames and by SQL, for notebooks and for the command line."""

from __future__ import annotations

from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from assets.lake.lake import Lake
from assets.lake.stored import stored_table
from assets.lake.tables import Table
from compute.errors import BadInput
from orchestration.home import Home
from orchestration.resources import resources_of
from orchestration.results.sources import sources_of
from orchestration.results.sql import Answer, Limits, answer
from orchestration.results.top import end_of_query
from orchestration.results.views import Moment, View, refuse_unknown_versions, view_named, views_of

if TYPE_CHECKING:
    import polars as pl

    from orchestration.results.scorer import Scorer


NOW = Moment()
LIMITS = Limits()


class Results:
    """What studies left in one lake.

    >>> results = Results.open()
    >>> results.table("rankings").filter(study="demo", rank=1).collect()
    >>> results.sql("SELECT query_id, max(score) FROM influence GROUP BY query_id").collect()
    """

    def __init__(self, lake: Lake, studies: Path | None = None) -> None:
        """`studies` is the directory in which study files are registered; only scoring needs it."""
        self.lake, self.studies = lake, studies

    @classmethod
    def open(cls, home: Home | None = None) -> Results:
        """The results in .headwater, or where HEADWATER_HOME and HEADWATER_LAKE say."""
        home = home or Home.from_environment()
        return cls(resources_of(home)["lake"], home.studies)

    @cached_property
    def views(self) -> dict[str, View]:
        """The views by name, as the lake was when they were first asked for."""
        return views_of(self.lake)

    def tables(self, name: str) -> dict[str, Table]:
        """Grain and columns of each table of a view, by whose it is. Raises BadInput for an unknown name."""
        return {
            owner: stored_table(self.lake.place, path) for owner, path in view_named(self.views, name).paths.items()
        }

    def table(self, name: str, moment: Moment = NOW) -> pl.LazyFrame:
        """All tables of one name as a lazy frame; its first column says whose each row is.

        Raises BadInput for an unknown name or version, and for a moment at which a table was not there yet.
        """
        import polars as pl

        view = view_named(self.views, name)
        refuse_unknown_versions([view], moment)
        sources = sources_of(self.lake, view, moment)
        parts = [source.frame().select(pl.lit(source.owner).alias(view.owner.name), pl.all()) for source in sources]
        return pl.concat(parts, how="diagonal")

    def top(
        self, study: str, query_id: str, method: str | None = None, count: int = 20, end: str = "top"
    ) -> pl.DataFrame:
        """rank, document_id, shard and score of a query's highest scores, or of its lowest (`end`: "bottom").

        Of all documents, where rankings stop at the study's top_k; ties go by document id. A clustered table that holds
        the scores as they are now answers at once, else influence is read. `method`: ekfac, or the only one. Raises
        BadInput for an unknown study, query, method or end.
        """
        return end_of_query(self, study, query_id, method, count, end)

    def sql(self, query: str, moment: Moment = NOW, limits: Limits = LIMITS) -> pl.LazyFrame:
        """The rows that a SELECT gives, in DuckDB's SQL over all views, as a lazy frame.

        The query can read these tables and nothing else: no file, no network, no extension, and it changes nothing.
        Raises BadInput for anything else, and for a query that takes more time, memory or rows than `limits`.
        """
        found = self.answer(query, moment, limits)
        found.refuse_cut()
        return found.frame.lazy()

    def scorer(self, study: str, moment: Moment = NOW) -> Scorer:
        """What scores one's own texts and queries with a study: its registered file says how, the lake with what.

        Raises BadInput for an unknown study, one that has not been run, and one whose file has changed since.
        """
        from orchestration.results.scorer import Scorer
        from orchestration.studies import registered_study

        if self.studies is None:
            raise BadInput(f"study {study}: these results know no study files; open them by Results.open()")
        refuse_unknown_versions(self.views.values(), moment)
        return Scorer(self.lake, registered_study(study, self.studies), moment)

    def answer(self, query: str, moment: Moment = NOW, limits: Limits = LIMITS) -> Answer:
        """The same with what is to be told about it; more rows than the limit are cut off and not refused."""
        return answer(self.lake, self.views, query, moment, limits)
