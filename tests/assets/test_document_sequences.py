"""Documents as the engine takes them: tokens of the lake's rows, without a copy of each."""

from __future__ import annotations

import numpy as np
import polars as pl

from assets.corpus.documents import sequences_of

TOKENS = {"a#0": [3, 1, 2], "b#0": [7], "b#1": [], "c#0": [5, 4]}


def rows() -> pl.DataFrame:
    types = {"document_id": pl.String, "token_ids": pl.List(pl.Int32)}
    return pl.DataFrame({"document_id": list(TOKENS), "token_ids": list(TOKENS.values())}, schema=types)


def test_tokens_are_those_of_the_rows_in_slices_of_one_array():
    found = sequences_of(rows())
    assert {each.key: each.token_ids.tolist() for each in found} == TOKENS
    assert {each.token_ids.dtype for each in found} == {np.dtype(np.int32)}
    assert len({id(each.token_ids.base) for each in found}) == 1


def test_rows_of_several_pieces_and_none():
    twice = pl.concat([rows(), rows().filter(document_id="c#0")], rechunk=False)
    assert [each.token_ids.tolist() for each in sequences_of(twice)] == [*TOKENS.values(), [5, 4]]
    assert [each.token_ids.tolist() for each in sequences_of(rows()[2:])] == [[], [5, 4]]
    assert sequences_of(rows().clear()) == []
