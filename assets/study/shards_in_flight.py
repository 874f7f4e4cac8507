"""What a pass holds next to the shard that it is at: of the one read ahead, and of the one written behind."""

from __future__ import annotations

from assets.lake.writing import MEMORY_BYTES, WRITER_BYTES

NORMED = "scores by norm"
BESIDE = "shards read ahead and written behind"
TOKEN_BYTES = 2 * 4  # as polars reads them, and as the engine takes them
DOCUMENT_BYTES = 600  # of Python's objects: an id, a sequence, its slice of the tokens
SCORE_BYTES = 4
NORMED_COPIES = 2  # on the way to ranks: divided by norms, and without those that are zero
SCORE_ROW_BYTES = 150  # of Arrow, with its strings
INDEX_ROW_BYTES = 120  # of Arrow, beside the code
CANDIDATE_ROW_BYTES = 700  # of Python's objects
ENDS = 4  # top and bottom, raw and normed


def bytes_beside(documents: int, tokens: int, directions: int, top_k: int, *, several: bool) -> dict[str, float]:
    """For shards of at most this many documents of `tokens` each, scored along `directions` (queries × methods).

    Scores are there by norm too before they are written, also those of one shard by itself. Of `several` shards the
    documents are there twice more, of the shard read and of the one written, and its scores once more; rows wait in
    memory up to a bound, beside the candidates.
    """
    scores = documents * directions
    normed = {NORMED: NORMED_COPIES * scores * SCORE_BYTES}
    if not several:
        return normed
    read = _documents_bytes(documents, tokens)
    rows = min(scores * SCORE_ROW_BYTES, MEMORY_BYTES + WRITER_BYTES)
    candidates = directions * ENDS * min(top_k, documents) * CANDIDATE_ROW_BYTES
    return normed | {BESIDE: 2 * read + scores * SCORE_BYTES + rows + candidates}


def bytes_beside_index(documents: int, tokens: int, dimensions: int, *, several: bool) -> dict[str, float]:
    """For shards whose documents are indexed by so many `dimensions`.

    The rows of a shard wait in memory until all are there, which one shard by itself needs too; with `several` those of
    the one before are written meanwhile.
    """
    rows = documents * (dimensions / 8 + INDEX_ROW_BYTES)
    read = 2 * _documents_bytes(documents, tokens) if several else 0
    return {BESIDE: read + (2 * rows + min(rows, MEMORY_BYTES + WRITER_BYTES) if several else rows)}


def _documents_bytes(documents: int, tokens: int) -> float:
    return documents * (tokens * TOKEN_BYTES + DOCUMENT_BYTES)
