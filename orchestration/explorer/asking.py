"""The page on which a query of one's own is asked: what the index of documents finds for it, scored exactly."""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from assets.study.opened import tables_opened
from compute.errors import BadInput
from orchestration.explorer.address import Option, address
from orchestration.explorer.known import refuse_unknown, refuse_unknown_study
from orchestration.explorer.query_page import RANKINGS
from orchestration.explorer.shown import Row, folded
from orchestration.studies import registered_study

if TYPE_CHECKING:
    from assets.study.own_query import AskedQuery
    from orchestration.results import Results
    from orchestration.results.scorer import Scorer

SHOWN = 20


class Scorers:
    """A scorer of each study that was asked, with its model loaded: made again when what it has read has changed."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._made: dict[str, tuple[object, Scorer]] = {}

    def of(self, results: Results, name: str) -> Scorer:
        """Raises BadInput for a study whose file is not here, and one that has not been run."""
        if results.studies is None:
            raise BadInput(f"study {name}: the explorer was started without study files, so it cannot ask the model")
        study = registered_study(name, results.studies)
        state = (study, tuple(results.lake.version(table) for table in tables_opened(study)))
        with self._lock:
            if name not in self._made or self._made[name][0] != state:
                self._made[name] = (state, results.scorer(name))
            return self._made[name][1]


@dataclass(frozen=True)
class AskPage:
    """`asked` and `groups` are there where a prompt was given and could be answered, `problem` where it could not."""

    study: str
    state: Mapping[str, Any]
    rankings: Sequence[Option]
    asked: AskedQuery | None = None
    groups: Sequence[tuple[Row, Sequence[Row]]] = ()
    problem: str | None = None


def ask(
    results: Results, scorers: Scorers, study: str, prompt: str | None, completion: str | None, ranking: str
) -> AskPage:
    """A mistake in what was asked stands on the page, over what was written. Raises BadInput for an unknown study or
    ranking."""
    refuse_unknown_study(results, study)
    refuse_unknown(ranking, RANKINGS, "ranking")
    # A form sends new lines as \r\n, which no corpus has.
    prompt, completion = ((text or "").replace("\r\n", "\n") for text in (prompt, completion))
    state = {"study": study, "prompt": prompt, "completion": completion, "ranking": ranking}
    options = [Option(each, address("ask", state, ranking=each), each == ranking) for each in RANKINGS]
    if not prompt:
        return AskPage(study, state, options)
    try:
        scorer = scorers.of(results, study)
        scorer.refuse_without_index()
        asked = scorer.ask(prompt, completion or None, methods="ekfac")
        rows = scorer.find(asked, ranking=ranking, count=SHOWN).collect()
    except BadInput as error:
        return AskPage(study, state, options, problem=str(error))
    return AskPage(study, state, options, asked, folded(rows))
