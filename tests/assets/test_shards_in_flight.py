"""What a pass holds next to the shard that it is at, in bytes that are counted by hand."""

from __future__ import annotations

import pytest

from assets.lake.writing import MEMORY_BYTES, WRITER_BYTES
from assets.study.shards_in_flight import BESIDE, NORMED, bytes_beside, bytes_beside_index


def test_one_shard_has_its_scores_by_norm_and_no_neighbours():
    """A thousand documents along ten directions: of 4 bytes, divided by norms, and with the zero ones replaced."""
    assert bytes_beside(1_000, 100, 10, 5, several=False) == {NORMED: 80_000}


def test_several_shards_have_their_neighbours_too():
    documents = 1_000 * (100 * 8 + 600)
    candidates = 10 * 4 * 5 * 700  # raw and normed, top and bottom
    expected = 2 * documents + 40_000 + 10_000 * 150 + candidates
    assert bytes_beside(1_000, 100, 10, 5, several=True) == {NORMED: 80_000, BESIDE: expected}


@pytest.mark.parametrize("several", [True, False])
def test_a_large_shards_rows_wait_up_to_a_bound_and_its_scores_do_not(several):
    small, large = (bytes_beside(documents, 100, 1_000, 5, several=several) for documents in (10**6, 2 * 10**6))
    assert large[NORMED] == 2 * small[NORMED] == 16_000_000_000
    if several:
        assert large[BESIDE] - small[BESIDE] == 10**6 * (
            2 * (100 * 8 + 600) + 1_000 * 4
        )  # no more rows, nor candidates


def test_there_are_no_more_candidates_than_documents():
    few, many = (bytes_beside(3, 10, 2, top_k, several=True)[BESIDE] for top_k in (3, 50))
    assert few == many


def test_an_index_waits_for_its_rows_and_of_several_shards_for_the_last_ones():
    rows = 1_000 * (4096 / 8 + 120)
    assert bytes_beside_index(1_000, 100, 4096, several=False) == {BESIDE: rows}
    assert bytes_beside_index(1_000, 100, 4096, several=True) == {BESIDE: 2 * 1_000 * (100 * 8 + 600) + 3 * rows}
    large = bytes_beside_index(10**6, 100, 4096, several=True)[BESIDE]
    assert large == 10**6 * (2 * 1_400 + 2 * 632) + MEMORY_BYTES + WRITER_BYTES
