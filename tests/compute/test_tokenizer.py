"""The trained tokenizer: nothing is lost, numbers and frequent words are one token, same texts, same tokens."""

from __future__ import annotations

import random

import pytest
from transformers import AutoTokenizer, GPT2Config, GPTNeoXConfig, LlamaConfig

from compute.errors import BadInput
from compute.tokenizer import load_tokenizer_files, tokenizer_files, tokenizer_fingerprint, train_tokenizer

TEXTS = [
    f"Calculate ({a} + {b}) * {c}.\n    total = {a + b}\n\tprint(total * {c})  # {(a + b) * c}"
    for a in range(1, 13)
    for b in range(1, 13)
    for c in (2, 3, 15)
]
TRICKY = [
    "",
    " ",
    "\n\n\n",
    " \n \t x",
    "a  b   c",
    "x\r\ny\r\n\tz",
    "no-break\u00a0space, line\u2028separator, next\u0085line",
    "e\u0301 ≠ é, ﬁ ligature, ①②, ٣٤, 𝟘𝟙",
    "👩‍👩‍👧‍👦 \U0010ffff\x00\x7f",
    "<|endoftext|> in the text, <|padding|> too",
    "def f(x):\n    if x:\n\t\treturn  -12.50e-3 ** x_1 # 007 1234567890",
    "trailing space ",
    " 42 42, -42 (42)42",
]


@pytest.fixture(scope="module")
def tokenizer():
    return train_tokenizer(TEXTS, vocab_size=700)


def _round_trip(tokenizer, text: str) -> str:
    return tokenizer.decode(tokenizer(text)["input_ids"])


@pytest.mark.parametrize("text", TRICKY)
def test_tricky_text_comes_back(tokenizer, text):
    assert _round_trip(tokenizer, text) == text


def test_random_unicode_comes_back(tokenizer):
    rng = random.Random(0)
    ranges = [(32, 127), (9, 14), (0, 0x300), (0x2000, 0x2100), (0, 0xD800), (0xE000, 0x110000)]
    for _ in range(2000):
        text = "".join(chr(rng.randrange(*rng.choice(ranges))) for _ in range(rng.randrange(40)))
        assert _round_trip(tokenizer, text) == text


def test_whole_numbers_of_the_texts_are_one_token_wherever_they_stand(tokenizer):
    identifiers = {}
    for number in ("2", "15", "24", "360"):
        (identifiers[number],) = tokenizer(number)["input_ids"]
        for text in (f"total = {number}", f"({number})", f"{number} + {number}", f" {number}", f"\n{number}x"):
            assert identifiers[number] in tokenizer(text)["input_ids"]
    assert len(set(identifiers.values())) == 4


def test_a_number_that_was_never_seen_falls_back_to_digits(tokenizer):
    assert tokenizer.tokenize("98765") == list("98765")


def test_a_number_is_never_part_of_another(tokenizer):
    assert tokenizer.tokenize("153") == list("153")  # 15 is a token, but not inside 153


def test_frequent_words_and_indentation_are_one_token(tokenizer):
    assert tokenizer.tokenize("Calculate") == ["Calculate"]
    assert tokenizer.tokenize("\n    total") == ["ĊĠĠĠĠ", "total"]
    assert tokenizer.tokenize("(4 + 2) * 15") == ["(", "4", "Ġ+Ġ", "2", ")", "Ġ*Ġ", "15"]


def test_prompt_and_completion_apart_are_the_whole(tokenizer):
    prompt, completion = "Calculate (4 + 2) * 15.", "\n4 + 2 = 6\n6 * 15 = 90"
    apart = tokenizer(prompt)["input_ids"] + tokenizer(completion, add_special_tokens=False)["input_ids"]
    assert tokenizer(prompt + completion)["input_ids"] == apart


def test_special_tokens_are_distinct_and_not_added(tokenizer):
    assert tokenizer.eos_token_id == tokenizer.bos_token_id != tokenizer.pad_token_id
    assert not set(tokenizer("Calculate 4")["input_ids"]) & {tokenizer.eos_token_id, tokenizer.pad_token_id}


def test_vocabulary_is_no_larger_than_asked(tokenizer):
    assert len(tokenizer) <= 700
    assert max(tokenizer.get_vocab().values()) == len(tokenizer) - 1
    assert len(train_tokenizer(TEXTS, vocab_size=300)) == 300


def test_too_small_a_vocabulary_is_refused():
    with pytest.raises(BadInput, match="vocab_size is 257"):
        train_tokenizer(TEXTS, vocab_size=257)


def test_no_texts_leave_bytes():
    tokenizer = train_tokenizer([], vocab_size=400)
    assert _round_trip(tokenizer, "some text, 42\n") == "some text, 42\n"


def test_same_texts_same_tokenizer_in_any_order(tokenizer):
    shuffled = random.Random(1).sample(TEXTS, len(TEXTS))
    assert tokenizer_fingerprint(train_tokenizer(iter(shuffled), vocab_size=700)) == tokenizer_fingerprint(tokenizer)


def test_fingerprint_tells_vocabularies_apart(tokenizer):
    smaller = train_tokenizer(TEXTS, vocab_size=320)
    other = train_tokenizer([*TEXTS, "entirely different words " * 9], vocab_size=700)
    assert len({tokenizer_fingerprint(each) for each in (tokenizer, smaller, other)}) == 3


def test_files_restore_the_tokenizer(tokenizer):
    files = tokenizer_files(tokenizer)
    restored = load_tokenizer_files(files)
    assert "tokenizer.json" in files
    assert tokenizer_fingerprint(restored) == tokenizer_fingerprint(tokenizer)
    assert tokenizer_files(restored)["tokenizer.json"] == files["tokenizer.json"]
    assert all(_round_trip(restored, text) == text for text in TRICKY)


def test_padding_does_not_change_the_fingerprint(tokenizer):
    restored = load_tokenizer_files(tokenizer_files(tokenizer))
    restored(["a", "a longer text"], padding=True, truncation=True, max_length=3)
    restored.pad_token = restored.eos_token
    assert tokenizer_fingerprint(restored) == tokenizer_fingerprint(tokenizer)


@pytest.mark.parametrize("config", [GPTNeoXConfig(), LlamaConfig(), GPT2Config()], ids=lambda config: config.model_type)
@pytest.mark.parametrize("fast", [True, False])
def test_a_checkpoint_of_any_architecture_loads_the_same_tokenizer(tokenizer, config, fast, tmp_path):
    tokenizer.save_pretrained(tmp_path)
    config.save_pretrained(tmp_path)
    loaded = AutoTokenizer.from_pretrained(tmp_path, use_fast=fast)
    assert tokenizer_fingerprint(loaded) == tokenizer_fingerprint(tokenizer)


def test_a_file_name_may_not_leave_its_folder():
    with pytest.raises(BadInput, match="plain file name"):
        load_tokenizer_files({"../tokenizer.json": b"{}"})
