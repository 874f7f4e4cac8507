"""BM25 of queries over a corpus that is never held at once: the words of all its shards counted first, then each shard
indexed and scored by bm25s.

The formula and its settings are bm25s' own (the one of Lucene, k1 = 1.5, b = 0.75), and so are the scores, bit for bit,
as of one index over the whole corpus (tests/compute/test_bm25.py). Two things keep memory small: words that no query
holds are counted in a document's length and nowhere else, and an index is of one shard, with the corpus's frequencies.

A word is a run of letters, digits and underscores in lower case. Single characters are words and none is left out for
being frequent: digits are what arithmetic is about, and the frequency of a word weighs it down already.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence

import bm25s
import numpy as np
from bm25s import scoring

logging.getLogger("bm25s").setLevel(logging.WARNING)  # it tells every index that it builds

WORD = r"(?u)\b\w+\b"
OTHER = 0
"""The number of every word that no query holds."""


def words_of(texts: Sequence[str]) -> list[list[str]]:
    return bm25s.tokenize(list(texts), token_pattern=WORD, stopwords=None, return_ids=False, show_progress=False)


class Bm25:
    """Scores of these queries (id -> text); `count` sees every document of the corpus before `scores` does."""

    def __init__(self, queries: Mapping[str, str]) -> None:
        self.query_ids = sorted(queries)
        words = words_of([queries[query_id] for query_id in self.query_ids])
        distinct = sorted({word for each in words for word in each})
        self._numbers = {word: number for number, word in enumerate(distinct, OTHER + 1)}
        self._queries = [[self._numbers[word] for word in each] for each in words]
        self.documents = self.words = 0
        self.frequencies = dict.fromkeys([OTHER, *self._numbers.values()], 0)
        """Number of a word -> documents that hold it."""

    def count(self, texts: Sequence[str]) -> None:
        """Adds documents to the corpus."""
        for numbers in self._numbered(texts):
            self.documents += 1
            self.words += len(numbers)
            for number in set(numbers):
                self.frequencies[number] += 1

    def scores(self, texts: Sequence[str]) -> np.ndarray:
        """float32 [query, document], queries in the order of `query_ids`; 0 where no word is common to both."""
        if not texts:
            return np.zeros((len(self._queries), 0), np.float32)
        index = _PartIndex(self)
        index.index((self._numbered(texts), self._numbers | {"": OTHER}), show_progress=False)
        return np.stack([index.get_scores_from_ids(query) for query in self._queries])

    def _numbered(self, texts: Sequence[str]) -> list[list[int]]:
        return [[self._numbers.get(word, OTHER) for word in words] for words in words_of(texts)]


class _PartIndex(bm25s.BM25):
    """An index of some documents of a corpus, by the frequencies and the mean length of all of them.

    What it overrides is the method that bm25s names for building an index in another way. What that takes from
    `scoring` is not documented, so the version of bm25s is bounded (pyproject.toml).
    """

    def __init__(self, corpus: Bm25) -> None:
        super().__init__(method="lucene")
        self.whole = corpus

    def build_index_from_ids(self, unique_token_ids, corpus_token_ids, show_progress=True, leave_progress=False):
        shown = {"show_progress": show_progress, "leave_progress": leave_progress}
        self.nonoccurrence_array = None  # of variants in which a word that is missing counts
        idf = scoring._build_idf_array(
            self.whole.frequencies, self.whole.documents, scoring._select_idf_scorer(self.idf_method), self.dtype
        )
        scores, documents, words = scoring._build_scores_and_indices_for_matrix(
            corpus_token_ids=corpus_token_ids,
            idf_array=idf,
            # As bm25s divides: by numpy, in float64.
            avg_doc_len=np.float64(self.whole.words) / self.whole.documents,
            doc_frequencies=scoring._calculate_doc_freqs(corpus_token_ids, unique_token_ids, **shown),  # room for these
            k1=self.k1,
            b=self.b,
            delta=self.delta,
            nonoccurrence_array=None,
            method=self.method,
            dtype=self.dtype,
            int_dtype=self.int_dtype,
            **shown,
        )
        shape = (len(corpus_token_ids), len(unique_token_ids))
        data, indices, indptr = self._np_csc(data=scores, rows=documents, cols=words, shape=shape)
        return {"data": data, "indices": indices, "indptr": indptr, "num_docs": shape[0]}
