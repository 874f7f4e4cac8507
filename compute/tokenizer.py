"""A tokenizer trained on the corpus: whole numbers and frequent words as tokens, bytes for all else, nothing lost.

Why: a small model learns arithmetic in minutes when each number is one token, and hardly at all from digits (measured:
100 % against 18 % of held-out sums after the same four minutes). So text is cut into pieces first, and a number is a
piece of its own, without the space before it ("42" and " 42" would otherwise be two unrelated tokens):

    newline with its indentation | number | word with the space before it | punctuation | other white space

Punctuation takes the space before it, and the space after it where a number follows: "(4 + 2) * 15" is the seven
pieces "(", "4", " + ", "2", ")", " * ", "15". The vocabulary holds, in this order: special tokens, all bytes, the most
frequent numbers, the most frequent other pieces, and byte-pair merges (Sennrich et al. 2016, arXiv 1508.07909; on
UTF-8 bytes as in Radford et al. 2019). A piece that is in the vocabulary is one token. Any other piece is spelled in
merges and bytes; a number, which takes no part in the merges, in digits.

No token is put before or after a text; the corpus option `end_of_text` appends the end-of-text token to each record.
"""

from __future__ import annotations

import hashlib
import json
import re
import tempfile
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path

from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import AutoTokenizer, PreTrainedTokenizerBase, PreTrainedTokenizerFast

from compute.errors import BadInput

END_OF_TEXT = "<|endoftext|>"  # opens nothing and closes a document; doubles as the beginning, as in GPT-NeoX
PADDING = "<|padding|>"
SPECIAL_TOKENS = (END_OF_TEXT, PADDING)

NUMBER = r"[0-9]+"
PIECE = "|".join(
    (
        r"(?:\r?\n)+[ \t]*",
        NUMBER,
        r" ?[\p{L}\p{M}_]+",
        r" ?[^\s\p{L}\p{M}_0-9]+(?: (?=[0-9]))?",
        r"\s+(?=\s[^\s0-9])",  # leave one space for the word that follows
        r"\s+",
    )
)
# A number longer than this is more likely an identifier than a quantity: it is spelled in digits.
LONGEST_NUMBER = 6
# Of the vocabulary that special tokens and bytes leave, numbers may take this share, and of the rest whole pieces this.
NUMBER_SHARE = 0.5
PIECE_SHARE = 0.75
SMALLEST_VOCABULARY = len(SPECIAL_TOKENS) + 256


def train_tokenizer(texts: Iterable[str], *, vocab_size: int) -> PreTrainedTokenizerFast:
    """A tokenizer of at most `vocab_size` tokens, learned from `texts`; same texts, same tokens."""
    if vocab_size < SMALLEST_VOCABULARY:
        raise BadInput(
            f"vocab_size is {vocab_size}, but bytes and special tokens alone take {SMALLEST_VOCABULARY}; raise it."
        )
    counts: Counter[str] = Counter()
    trained = Tokenizer(models.BPE())
    trained.pre_tokenizer = pre_tokenizers.Sequence([*_cut(), pre_tokenizers.Split(Regex(NUMBER), "removed")])
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=list(SPECIAL_TOKENS),
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    trained.train_from_iterator(_counted(texts, counts), trainer)
    learned = json.loads(trained.to_str())["model"]
    base = sorted(learned["vocab"], key=learned["vocab"].get)[:SMALLEST_VOCABULARY]
    merges = [tuple(pair) for pair in learned["merges"]]
    return _wrap(_assemble(base, _frequent(counts, vocab_size), merges, vocab_size))


def tokenizer_files(tokenizer: PreTrainedTokenizerBase) -> dict[str, bytes]:
    """The tokenizer as the files that `save_pretrained` writes, by name."""
    with tempfile.TemporaryDirectory() as directory:
        tokenizer.save_pretrained(directory)
        return {path.name: path.read_bytes() for path in sorted(Path(directory).iterdir()) if path.is_file()}


def load_tokenizer_files(files: dict[str, bytes]) -> PreTrainedTokenizerBase:
    """The tokenizer that `tokenizer_files` turned into files; never runs code from them."""
    with tempfile.TemporaryDirectory() as directory:
        for name, content in files.items():
            if Path(name).name != name:
                raise BadInput(f"Tokenizer file {name!r} is not a plain file name; store the files without folders.")
            Path(directory, name).write_bytes(content)
        return AutoTokenizer.from_pretrained(directory, trust_remote_code=False)


def tokenizer_fingerprint(tokenizer: PreTrainedTokenizerBase) -> str:
    """A hash of all that decides which ids a text gets; padding, its token and truncation do not count."""
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is not None:
        description = json.loads(backend.to_str())
        parts = {
            key: description.get(key)
            for key in ("normalizer", "pre_tokenizer", "post_processor", "model", "added_tokens")
        }
    else:  # a tokenizer written in Python: its vocabulary and added tokens are what can be seen from outside
        parts = {"vocabulary": tokenizer.get_vocab(), "class": type(tokenizer).__name__}
    parts["special"] = {name: getattr(tokenizer, name) for name in ("bos_token", "eos_token", "unk_token")}
    canonical = json.dumps(parts, sort_keys=True, ensure_ascii=True)
    return hashlib.sha256(canonical.encode()).hexdigest()


def _cut() -> list[pre_tokenizers.PreTokenizer]:
    """Text into pieces, and pieces into the printable characters that stand for their bytes."""
    return [
        pre_tokenizers.Split(Regex(PIECE), "isolated"),
        pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
    ]


def _counted(texts: Iterable[str], counts: Counter[str]) -> Iterator[str]:
    """Passes the texts on and counts their pieces on the way."""
    cut = pre_tokenizers.Sequence(_cut())
    for text in texts:
        counts.update(piece for piece, _ in cut.pre_tokenize_str(text))
        yield text


def _frequent(counts: Counter[str], vocab_size: int) -> list[str]:
    """The numbers and the other pieces that become tokens, most frequent first; single bytes are tokens already."""
    room = vocab_size - SMALLEST_VOCABULARY
    ordered = sorted((piece for piece in counts if len(piece) > 1), key=lambda piece: (-counts[piece], piece))
    is_number = re.compile(NUMBER).fullmatch
    numbers = [piece for piece in ordered if is_number(piece) and len(piece) <= LONGEST_NUMBER][
        : int(room * NUMBER_SHARE)
    ]
    others = [piece for piece in ordered if not is_number(piece)][: int((room - len(numbers)) * PIECE_SHARE)]
    return numbers + others


def _assemble(base: list[str], pieces: list[str], merges: list[tuple[str, str]], vocab_size: int) -> Tokenizer:
    """Base and pieces, then as many merges, in the order learned, as still bring a new token into the vocabulary."""
    vocabulary = {token: index for index, token in enumerate([*base, *pieces])}
    kept = []
    for left, right in merges:
        if left + right not in vocabulary:
            if len(vocabulary) == vocab_size:
                break
            vocabulary[left + right] = len(vocabulary)
        kept.append((left, right))
    # ignore_merges: a piece that is a token is taken whole, whether or not the merges lead to it.
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=kept, ignore_merges=True))
    tokenizer.add_special_tokens(list(SPECIAL_TOKENS))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(_cut())
    tokenizer.decoder = decoders.ByteLevel()
    return tokenizer


def _wrap(tokenizer: Tokenizer) -> PreTrainedTokenizerFast:
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token=END_OF_TEXT,
        eos_token=END_OF_TEXT,
        pad_token=PADDING,
        clean_up_tokenization_spaces=False,
    )
