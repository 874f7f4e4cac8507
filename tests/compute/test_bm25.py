"""BM25: bm25s' own scores of the whole corpus, whatever its parts; and the formula, by hand."""

from __future__ import annotations

import math
import random

import bm25s
import numpy as np
import pytest

from compute.bm25 import WORD, Bm25

QUERIES = {
    "cat": "The cat sits. The cat!",
    "sum": "7 + 5 = 12",
    "unknown": "the zyzzyva",
    "wordless": "?!",
    "nowhere": "quux",
}
WORDS = "the a cat dog Sits on mat 7 5 12 plus is equal to river mountain".split()


def corpus(documents: int = 200) -> list[str]:
    draw = random.Random(0)
    return ["", "?!", *(" ".join(draw.choices(WORDS, k=draw.randint(1, 40))) for _ in range(documents))]


def in_parts(texts: list[str], size: int, queries: dict[str, str] = QUERIES) -> np.ndarray:
    bm25, parts = Bm25(queries), [texts[at : at + size] for at in range(0, len(texts), size)]
    for part in parts:
        bm25.count(part)
    return np.concatenate([bm25.scores(part) for part in parts], axis=1)


@pytest.mark.parametrize("size", [1, 7, 64, 1000])
def test_scores_are_those_of_bm25s_on_the_whole_corpus(size):
    texts, options = corpus(), {"token_pattern": WORD, "stopwords": None, "show_progress": False}
    whole = bm25s.BM25()
    whole.index(bm25s.tokenize(texts, **options), show_progress=False)
    scores = in_parts(texts, size)
    for query_id, found in zip(sorted(QUERIES), scores, strict=True):
        words = bm25s.tokenize(QUERIES[query_id], **options, return_ids=False)[0]
        expected = whole.get_scores_from_ids(whole.get_tokens_ids(words))
        np.testing.assert_array_equal(found, expected)
    assert (scores[sorted(QUERIES).index("cat")] > 0).sum() > 100


def test_scores_are_those_of_the_formula_and_rank_as_it_says():
    texts = ["cat", "cat dog", "dog dog dog", "cat cat dog mat", ""]
    by_hand = np.zeros(len(texts))
    mean = sum(len(text.split()) for text in texts) / len(texts)
    for word in ("cat", "mat"):
        holding = sum(word in text.split() for text in texts)
        idf = math.log(1 + (len(texts) - holding + 0.5) / (holding + 0.5))
        for place, text in enumerate(texts):
            often, length = text.split().count(word), len(text.split())
            by_hand[place] += idf * often / (often + 1.5 * (1 - 0.75 + 0.75 * length / mean))
    scores = in_parts(texts, 2, {"q": "Cat, mat!"})[0]
    np.testing.assert_allclose(scores, by_hand, rtol=1e-6)
    assert np.argsort(-scores, kind="stable").tolist() == [3, 0, 1, 2, 4]
    assert (scores[[2, 4]] == 0).all()


def test_a_part_of_a_corpus_may_be_empty():
    bm25 = Bm25(QUERIES)
    bm25.count(corpus(5))
    assert bm25.scores([]).shape == (len(QUERIES), 0)
    assert not Bm25({"q": "cat"}).documents
