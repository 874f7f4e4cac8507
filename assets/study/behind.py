"""Which shards of a study are behind: not read, cut or scored, or otherwise than their source and queries are now.

Told by fingerprints from Delta's logs, without a step and without reading any data but two small tables: a schedule can
ask it every night.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from assets.columns import TOKENIZER
from assets.corpus.documents import documents_stamp, documents_table
from assets.corpus.records import records_stamp, records_table
from assets.corpus.shard_list import shards_table
from assets.corpus.shards import shards_from_rows
from assets.corpus.tokenizer import tokenizer_table
from assets.stored_now import StoredNow
from assets.study.influence import expected_stamps, influence_table, origins

if TYPE_CHECKING:
    from assets.lake import Lake
    from assets.study.spec import Study


def shards_behind(lake: Lake, study: Study) -> list[str]:
    """The shards to compute, in order; none where the study has never been run up to its query gradients."""
    corpus = study.spec.corpus
    needed = (shards_table(corpus.name), tokenizer_table(corpus.name), *origins(study))
    if any(lake.version(table) is None for table in needed):
        return []
    now = StoredNow(lake)
    rows = lake.scan(shards_table(corpus.name)).drop("fingerprint").collect().to_dicts()
    tokenizer = lake.scan(tokenizer_table(corpus.name)).select(TOKENIZER.name).first().collect().item()
    shards = {shard.key: shard for shard in shards_from_rows(rows)}
    read, cut = now.shard_fingerprints(records_table(corpus.name)), now.shard_fingerprints(documents_table(corpus.name))
    scored, expected = now.shard_fingerprints(influence_table(study.name)), expected_stamps(now, study, shards)
    return [
        key
        for key, shard in shards.items()
        if read.get(key) != (records_stamp(corpus, shard) if shard.records else None)
        or cut.get(key) != documents_stamp(corpus, tokenizer, read.get(key))
        or scored.get(key) != expected[key]
    ]
