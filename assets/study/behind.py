"""Which shards of a study are behind: missing (not read, cut or scored), or stale (otherwise than their source, the
model and the queries are now).

Told by fingerprints from Delta's logs, without a step and without reading any data but two small tables: a schedule can
ask it every night.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from assets.corpus.documents import documents_stamp, documents_table
from assets.corpus.records import records_stamp, records_table, rejected_table
from assets.corpus.shard_list import listed_shards, shards_table
from assets.corpus.tokenizer import tokenizer_table
from assets.lake.columns import TOKENIZER
from assets.step.stored_now import StoredNow
from assets.study.document_index import shards_to_index
from assets.study.influence import expected_stamps, origins, scores_tables

if TYPE_CHECKING:
    from assets.lake.lake import Lake
    from assets.specs.study import Study

BEHIND = ("stale", "missing")


def shards_behind(lake: Lake, study: Study) -> list[str] | None:
    """The shards to compute or to index, in order; None where that cannot be told yet."""
    if not is_begun(lake, study):
        return None
    unindexed = shards_to_index(StoredNow(lake), study) if study.spec.options.index else ()
    return [shard for shard, state in shard_states(lake, study).items() if state in BEHIND or shard in unindexed]


def is_begun(lake: Lake, study: Study) -> bool:
    """Whether the study has been run up to its query gradients, from which its shards are scored."""
    corpus = study.spec.corpus.name
    needed = (shards_table(corpus), tokenizer_table(corpus), *origins(study))
    return all(lake.version(table) is not None for table in needed)


def shard_states(lake: Lake, study: Study) -> dict[str, str]:
    """Shard -> scored, empty (no documents), stale or missing, from its source files to its scores."""
    corpus, now = study.spec.corpus, StoredNow(lake)
    shards = {shard.key: shard for shard in listed_shards(lake, corpus.name)}
    tokenizer = lake.scan(tokenizer_table(corpus.name)).select(TOKENIZER.name).first().collect().item()
    read, cut = now.shard_fingerprints(records_table(corpus.name)), now.shard_fingerprints(documents_table(corpus.name))
    unread, uncut = (_set_aside(lake, corpus.name, stage) for stage in ("records", "documents"))
    expected = expected_stamps(now, study, shards)
    scored = [now.shard_fingerprints(table) for table in scores_tables(study.name)]
    states = {}
    for key, shard in shards.items():
        is_read = _as_expected(
            read.get(key), records_stamp(corpus, shard) if shard.records else None, unread.get(key, 0)
        )
        documents = documents_stamp(corpus, tokenizer, read.get(key))
        is_cut = _as_expected(cut.get(key), documents, uncut.get(key, 0))
        found = {stamps.get(key) for stamps in scored}
        if is_read and is_cut and found == {expected[key]}:
            states[key] = "scored" if expected[key] else "empty"
        else:
            states[key] = "missing" if None in found else "stale"
    return states


def _as_expected(stored: str | None, expected: str | None, set_aside: int) -> bool:
    """Also where nothing is stored because all that was there has been set aside."""
    return stored == expected or (stored is None and set_aside > 0)


def _set_aside(lake: Lake, corpus: str, stage: str) -> dict[str, int]:
    table = rejected_table(corpus)
    return {} if lake.version(table) is None else lake.partition_rows(table, where={"stage": stage})
