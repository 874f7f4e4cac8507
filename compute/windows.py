"""Cutting text into windows of tokens: a document is a window of at most `max_tokens` tokens of one source record.

Special tokens follow the tokenizer's own policy, learned once from what it puts around a probe text:

- what it puts before a text (BOS) begins every window, and is not doubled when the text itself begins with it;
- what it puts after a text (EOS) ends the record's last window; `end_of_text` adds the EOS where it does not.

So a record that fits into one window has exactly the tokens of `tokenizer(text)`. The windows of a record tile its
text: each ends at the character at which the next begins. Characters are those of the tokenizer's offsets, and a
character whose bytes are split between two windows belongs to the first.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING

from compute.errors import BadInput

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

PROBES = ("a", "0", "the", ".")
SMALLEST_WINDOW = 2  # the first token has nothing before it that could predict it


@dataclass(frozen=True, slots=True)
class Window:
    """One window of a text; `text[char_start:char_end]` is its own part."""

    index: int
    token_ids: list[int]
    char_start: int
    char_end: int

    @property
    def problem(self) -> str | None:
        """Why this window cannot be a document, if so: it holds no token to predict."""
        if len(self.token_ids) >= SMALLEST_WINDOW:
            return None
        return f"The window has fewer than {SMALLEST_WINDOW} tokens, so that there is none to predict."


@dataclass(frozen=True, slots=True)
class SpecialTokens:
    """What a tokenizer puts before and after a text."""

    before: tuple[int, ...]
    after: tuple[int, ...]


def special_tokens(tokenizer: PreTrainedTokenizerFast) -> SpecialTokens:
    """Find the tokenizer's policy by comparing a probe's tokens with and without special ones."""
    for probe in PROBES:
        inner = _encode(tokenizer, [probe])["input_ids"][0]
        outer = _encode(tokenizer, [probe], add_special_tokens=True)["input_ids"][0]
        for start in range(len(outer) - len(inner) + 1):
            if inner and outer[start : start + len(inner)] == inner:
                return SpecialTokens(before=tuple(outer[:start]), after=tuple(outer[start + len(inner) :]))
    raise BadInput("the tokenizer gives no tokens for plain letters and digits; use the one that belongs to the model")


def cut_windows_batch(
    texts: Sequence[str], tokenizer: PreTrainedTokenizerFast, *, max_tokens: int, end_of_text: bool = False
) -> list[list[Window]]:
    """The windows of each text, in order; at least one: a text without tokens gives an empty one with a `problem`."""
    if not texts:
        return []
    special = _with_end(special_tokens(tokenizer), tokenizer, end_of_text=end_of_text)
    room = max_tokens - len(special.before)
    if room < len(special.after) + 1 or max_tokens < SMALLEST_WINDOW:
        raise BadInput(
            f"max_tokens {max_tokens} leaves no room for text next to the tokenizer's "
            f"{len(special.before) + len(special.after)} special tokens; raise max_tokens"
        )
    encoded = _encode(tokenizer, texts, return_offsets_mapping=True)
    return [
        _windows(text, ids, [end for _, end in offsets], special, max_tokens)
        for text, ids, offsets in zip(texts, encoded["input_ids"], encoded["offset_mapping"], strict=True)
    ]


def tokenize_query(
    prompt: str, completion: str | Sequence[int] | None, tokenizer: PreTrainedTokenizerFast
) -> tuple[list[int], list[int]]:
    """Token ids of a prompt and of its completion: the prompt begins as a document does and has no end, the completion
    has no special tokens. A completion that was generated is given as its token ids and stays as it is; one that is
    still to be generated is None and gives no ids.

    A written completion is tokenized together with the prompt, so that tokenizers that treat the beginning of a text
    differently see none there; only where a token would span both is it tokenized alone.
    """
    prompt_ids = _encode(tokenizer, [prompt])["input_ids"][0]
    if not prompt_ids:
        raise BadInput(f"the prompt {prompt[:80]!r} has no tokens; write one that the tokenizer knows")
    written = isinstance(completion, str)
    completion_ids = _continuation(prompt, prompt_ids, completion, tokenizer) if written else list(completion or ())
    if completion is not None and not completion_ids:
        raise BadInput(f"the completion of the prompt {prompt[:80]!r} has no tokens; write one that has")
    return _missing_before(prompt_ids, special_tokens(tokenizer)) + prompt_ids, completion_ids


def _continuation(prompt: str, prompt_ids: list[int], text: str, tokenizer: PreTrainedTokenizerFast) -> list[int]:
    joint = _encode(tokenizer, [prompt + text])["input_ids"][0]
    if joint[: len(prompt_ids)] == prompt_ids:
        return joint[len(prompt_ids) :]
    return _encode(tokenizer, [text])["input_ids"][0]


def _encode(tokenizer: PreTrainedTokenizerFast, texts: Sequence[str], *, add_special_tokens: bool = False, **options):
    """Tokenize without truncation, padding, or the warning about texts longer than the model's context."""
    return tokenizer(
        list(texts),
        add_special_tokens=add_special_tokens,
        truncation=False,
        padding=False,
        return_attention_mask=False,
        return_token_type_ids=False,
        verbose=False,
        **options,
    )


def _with_end(special: SpecialTokens, tokenizer: PreTrainedTokenizerFast, *, end_of_text: bool) -> SpecialTokens:
    if not end_of_text:
        return special
    end = tokenizer.eos_token_id
    if end is None:
        raise BadInput("end_of_text is set, but the tokenizer has no end-of-sequence token; set end_of_text: false")
    return special if end in special.after else SpecialTokens(before=special.before, after=(*special.after, end))


def _missing_before(ids: list[int], special: SpecialTokens) -> list[int]:
    """The special tokens to put before: none if the text itself begins with them."""
    before = list(special.before)
    return [] if ids[: len(before)] == before else before


def _missing_after(ids: list[int], special: SpecialTokens) -> list[int]:
    after = list(special.after)
    return [] if after and ids[-len(after) :] == after else after


def _windows(text: str, ids: list[int], ends: list[int], special: SpecialTokens, max_tokens: int) -> list[Window]:
    """Windows of `ids`, whose tokens end at the characters `ends`."""
    if not ids:
        return [Window(index=0, token_ids=[], char_start=0, char_end=len(text))]
    before = _missing_before(ids, special)
    body = ids + _missing_after(ids, special)
    cuts = _cuts(
        len(ids),
        len(body),
        first=max_tokens - len(before),
        later=max_tokens - len(special.before),
        smallest=max(SMALLEST_WINDOW - len(special.before), 1),
    )
    windows: list[Window] = []
    reached = 0
    for start, stop in pairwise(cuts):
        opening = list(special.before) if start else before
        begin, reached = reached, max([reached, *ends[start:stop]]) if stop < len(ids) else len(text)
        windows.append(
            Window(index=len(windows), token_ids=opening + body[start:stop], char_start=begin, char_end=reached)
        )
    return windows


def _cuts(content: int, body: int, *, first: int, later: int, smallest: int) -> list[int]:
    """Where the windows of `body` tokens begin, and where the last one ends; the first `content` tokens are text.

    Windows are filled from the start. The last one takes a token from the one before it rather than have fewer than
    `smallest`, with which it could not be a document, or hold no text at all.
    """
    cuts = [0, *range(first, body, later), body]
    if len(cuts) > 2:
        latest = min(body - smallest, content - 1)
        cuts[-2] = max(min(cuts[-2], latest), cuts[-3] + smallest)
    return cuts
