"""Draws a study's corpus from OLMo 2's pretraining data: `python -m examples.studies.sample STUDY.yaml OUTDIR`.

OLMo-mix-1124 lies on the hub as one folder per source, so its first records are all of one source. This draws files of
each source by seed, reads as far into each as is needed (nothing is downloaded whole), and writes records with their
source, in the sources' shares of the mix, until the study will cut them into as many documents as asked for (5
million, 2.5 billion tokens, in the paper).

    OUTDIR/<source>-0000.jsonl.zst   records: id, text, source

The records of a file are taken from its beginning, so neighbours of the corpus are neighbours here; the files are
many. The paper draws from every batch of pretraining instead, whose order OLMo's own tools can rebuild.
"""

from __future__ import annotations

import argparse
import json
import math
import random
import sys
from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

from compute.errors import BadInput

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

    from assets.specs.corpus import CorpusSpec

# Folders and files: https://huggingface.co/datasets/allenai/olmo-mix-1124 at the commit of "fixing loading with
# Datasets library"; its records have id, text, added and created, and no source.
ROOT = "hf://datasets/allenai/olmo-mix-1124@166bbe2db8563a30388e37b4cfd753b8252f3622/data"

# Billions of tokens of each source in the mix: OLMo 2 (arXiv 2501.00656), table of the pretraining data.
TOKENS = {
    "dclm": 3710.0,  # web pages
    "starcoder": 83.0,
    "pes2o": 58.6,  # academic papers
    "arxiv": 20.8,
    "open-web-math": 12.2,
    "algebraic-stack": 11.8,  # mathematical code
    "wiki": 3.7,
}

SUFFIXES = (".json.gz", ".json.zst", ".jsonl.gz", ".jsonl.zst", ".jsonl", ".json")
MOST_FILES = 200  # of a source that are opened
WINDOWS = 4  # documents that a record makes: if it makes no more on average, every file is read from
BATCH = 64  # records tokenized at once
RECORDS_PER_FILE = 50_000


def quotas(documents: int, tokens: dict[str, float] | None = None) -> dict[str, int]:
    """Documents of each source, in the sources' shares of the tokens; they add up."""
    tokens = tokens or TOKENS
    exact = {source: documents * share / sum(tokens.values()) for source, share in tokens.items()}
    counts = {source: math.floor(share) for source, share in exact.items()}
    missing = documents - sum(counts.values())
    for source in sorted(exact, key=lambda source: counts[source] - exact[source])[:missing]:
        counts[source] += 1
    return counts


def records(root: str, source: str, seed: int, documents: int) -> Iterator[dict]:
    """A source's records: some of each of its files, drawn by seed, then the next ones of each, and so on."""
    files = _files(root, source)
    random.Random(f"{seed}:{source}").shuffle(files)
    files = files[:MOST_FILES]
    turn = math.ceil(documents / len(files) / WINDOWS)
    start, unfinished = 0, files
    while unfinished:
        going_on = []
        for file in unfinished:
            taken = 0
            for record in islice(_lines(root, file, source), start, start + turn):
                taken += 1
                yield record
            if taken == turn:
                going_on.append(file)
        start, unfinished = start + turn, going_on


def draw(
    root: str, out: Path, documents: int, seed: int, corpus: CorpusSpec, tokenizer: PreTrainedTokenizerFast
) -> dict[str, int]:
    """Writes the sample; the number of documents of each source that it will be cut into."""
    out.mkdir(parents=True, exist_ok=True)
    counts = {}
    for source, quota in quotas(documents).items():
        counts[source] = _draw_source(root, out, source, quota, seed, corpus, tokenizer)
        print(f"{source}: {counts[source]} documents", file=sys.stderr)
    return counts


def _draw_source(
    root: str, out: Path, source: str, quota: int, seed: int, corpus: CorpusSpec, tokenizer: PreTrainedTokenizerFast
) -> int:
    """Whole records, until they make up the quota; the last one may go beyond it by some windows."""
    from compute.windows import cut_windows_batch

    count, taken = 0, records(root, source, seed, quota)
    with _Writer(out, source) as writer:
        while count < quota and (batch := list(islice(taken, BATCH))):
            windows = cut_windows_batch(
                [record["text"] for record in batch],
                tokenizer,
                max_tokens=corpus.max_tokens,
                end_of_text=corpus.end_of_text,
            )
            for record, cut in zip(batch, windows, strict=True):
                if count < quota:
                    writer.write(record)
                    count += sum(window.problem is None for window in cut)
    if count < quota:
        raise BadInput(f"{root}/{source}: holds {count} documents, but {quota} are needed; ask for fewer (--documents)")
    return count


class _Writer:
    """Records of one source in compressed files of a limited length."""

    def __init__(self, out: Path, source: str):
        self.out, self.source, self.written, self.file = out, source, 0, None

    def __enter__(self) -> _Writer:
        return self

    def write(self, record: dict) -> None:
        import zstandard

        if self.written % RECORDS_PER_FILE == 0:
            self.close()
            path = self.out / f"{self.source}-{self.written // RECORDS_PER_FILE:04d}.jsonl.zst"
            self.file = zstandard.open(path, "wt", encoding="utf-8")
        self.file.write(json.dumps(record, ensure_ascii=False) + "\n")
        self.written += 1

    def close(self) -> None:
        if self.file:
            self.file.close()

    def __exit__(self, *_) -> None:
        self.close()


def _files(root: str, source: str) -> list[str]:
    import fsspec

    files, place = fsspec.url_to_fs(root)
    found = sorted(name for name in files.find(f"{place}/{source}") if name.endswith(SUFFIXES))
    if not found:
        raise BadInput(f"{root}/{source}: holds no files ({', '.join(SUFFIXES)}); see whether the corpus has moved")
    return [name.removeprefix(f"{place}/") for name in found]


def _lines(root: str, file: str, source: str) -> Iterator[dict]:
    """Records of one file, streamed; their ids are the file and the line, since not every source has unique ones."""
    import fsspec

    stem = next(file.removesuffix(suffix) for suffix in SUFFIXES if file.endswith(suffix))
    with fsspec.open(f"{root}/{file}", "rt", encoding="utf-8", compression="infer") as lines:
        for number, line in enumerate(lines):
            text = json.loads(line).get("text")
            if isinstance(text, str) and text.strip():
                yield {"id": f"{stem}:{number}", "text": text, "source": source}


def main(arguments: Sequence[str] | None = None) -> int:
    """Exit status: 0, or 1 after a sentence that says what went wrong."""
    from compute.checkpoint import load_tokenizer
    from orchestration.studies import read_study

    parser = argparse.ArgumentParser(prog="python -m examples.studies.sample", description=__doc__.split("\n")[0])
    parser.add_argument("study", type=Path, metavar="STUDY.yaml", help="whose tokenizer cuts the documents")
    parser.add_argument("out", type=Path, metavar="OUTDIR")
    parser.add_argument("--documents", type=int, default=5_000_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--root", default=ROOT, help="where the mix's folders are, if not on the hub")
    given = parser.parse_args(arguments)
    try:
        study = read_study(given.study)
        model = study.spec.model
        tokenizer = load_tokenizer(model.location(study.base), revision=model.revision)
        draw(given.root, given.out, given.documents, given.seed, study.spec.corpus, tokenizer)
    except BadInput as error:
        print(f"sample: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
