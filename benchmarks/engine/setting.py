"""What every contender works on: the setting, and the documents and queries that are drawn for it.

Tokens follow a grammar that a small model can learn: each token has a few successors, each topic words of its own, and
facts (fixed runs of tokens) recur in a handful of documents. A query begins like a document, names the first half of a
fact, and its completion is the second half: what taught it are the documents with that fact.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass

import numpy as np

from compute.batches import Sequence

SUCCESSORS, TOPICS, TOPIC_WORDS = 4, 16, 32
FACT_TOKENS, FACT_EVERY = 8, 32  # a fact is this long, and begins about this often in a document


@dataclass(frozen=True, kw_only=True)
class Setting:
    """The model's size and how much text there is. Defaults are those of the targets, at the smaller width.

    `memory_mib` is the stated budget: what a pass of ours may take for gradients of queries and documents
    (`options.memory_mib`). `our_batch` has the documents of a batch of ours; None: `batch`, as the yardstick, the floor
    and the peers always have.
    """

    width: int = 256
    layers: int = 4
    vocabulary: int = 4096
    documents: int = 300
    tokens: int = 256
    queries: int = 32
    many_queries: int = 512
    batch: int = 8
    threads: int = 2
    train_minutes: float = 3.0
    memory_mib: int = 1024
    our_batch: int | None = None

    @property
    def token_budget(self) -> int:
        """Padded tokens of a batch of `batch` documents."""
        return self.batch * self.tokens

    @property
    def our_documents(self) -> int:
        return self.our_batch or self.batch

    @property
    def our_token_budget(self) -> int:
        """The same of a batch of ours."""
        return self.our_documents * self.tokens

    def as_dict(self) -> dict:
        return asdict(self)


QUICK = Setting(
    width=32,
    layers=2,
    vocabulary=256,
    documents=24,
    tokens=64,
    queries=4,
    many_queries=12,
    threads=1,
    train_minutes=0.03,
)
"""Seconds long: shows that the harness works, and says nothing about speed."""


def draw_documents(setting: Setting) -> list[Sequence]:
    grammar = _Grammar(setting)
    return [grammar.document(number, setting.tokens) for number in range(setting.documents)]


def draw_queries(setting: Setting) -> list[Sequence]:
    """`many_queries` of them; the smaller set is their beginning."""
    grammar = _Grammar(setting)
    return [grammar.query(number, setting.tokens // 4) for number in range(setting.many_queries)]


class _Grammar:
    def __init__(self, setting: Setting) -> None:
        drawn = np.random.default_rng(0)
        vocabulary = setting.vocabulary
        self.words = 1 / np.arange(2, vocabulary + 2)
        self.words /= self.words.sum()
        self.successors = drawn.choice(vocabulary, (vocabulary, SUCCESSORS), p=self.words)
        self.topics = drawn.integers(vocabulary, size=(TOPICS, TOPIC_WORDS))
        self.facts = drawn.integers(vocabulary, size=(setting.many_queries, FACT_TOKENS))

    def document(self, number: int, length: int) -> Sequence:
        drawn = np.random.default_rng([1, number])
        tokens: list[int] = []
        while len(tokens) < length:
            tokens += self._run(drawn, number % TOPICS, FACT_EVERY - FACT_TOKENS)
            tokens += self.facts[drawn.integers(len(self.facts))].tolist()
        return Sequence(f"document-{number}", tokens[:length])

    def query(self, number: int, length: int) -> Sequence:
        drawn = np.random.default_rng([2, number])
        prompt = self._run(drawn, number % TOPICS, length - FACT_TOKENS) + self.facts[number].tolist()
        return Sequence(f"query-{number}", prompt, len(prompt) - FACT_TOKENS // 2)

    def _run(self, drawn: np.random.Generator, topic: int, length: int) -> list[int]:
        tokens = [int(drawn.choice(len(self.words), p=self.words))]
        for kind, choice in zip(drawn.random(length - 1), drawn.integers(TOPIC_WORDS, size=length - 1), strict=True):
            of_topic = kind < 0.3
            tokens.append(
                int(self.topics[topic, choice] if of_topic else self.successors[tokens[-1], choice % SUCCESSORS])
            )
        return tokens
