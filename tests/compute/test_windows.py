"""Windows: they lose no token and no character, double no special token, and are as long as they may be."""

from __future__ import annotations

import warnings

import pytest
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast

from compute.errors import BadInput
from compute.windows import Window, cut_windows_batch, special_tokens, tokenize_query

TEXTS = [
    "The river rises in the hills, and it flows to the sea.",
    "12 + 30 = 42",
    "naïve café 🙂🙂 — 日本語 text",
    "  leading and trailing white space \n\n",
    "word",
]
TEMPLATES = {"none": None, "bos": "<s> $A", "bos_eos": "<s> $A </s>", "eos": "$A </s>"}


def byte_level() -> Tokenizer:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=400,
        special_tokens=["<s>", "</s>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(TEXTS * 3, trainer)
    return tokenizer


def with_space_before() -> Tokenizer:
    """As in Llama: a space is put before the text, so that a text alone differs from one that continues another."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    tokenizer.pre_tokenizer = pre_tokenizers.Split("▁", "merged_with_next")
    tokenizer.decoder = decoders.Metaspace()
    trainer = trainers.BpeTrainer(vocab_size=300, special_tokens=["<s>", "</s>"], show_progress=False)
    tokenizer.train_from_iterator(TEXTS * 3, trainer)
    return tokenizer


def wrapped(tokenizer: Tokenizer, template: str, **options) -> PreTrainedTokenizerFast:
    if TEMPLATES[template]:
        tokenizer.post_processor = processors.TemplateProcessing(
            single=TEMPLATES[template], special_tokens=[("<s>", 0), ("</s>", 1)]
        )
    named = {"bos_token": "<s>", "eos_token": "</s>"}
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, **{**named, **options})


def cut_windows(text: str, tokenizer, **options) -> list[Window]:
    """Those of one text."""
    return cut_windows_batch([text], tokenizer, **options)[0]


@pytest.fixture(params=[*TEMPLATES, "space_before"])
def tokenizer(request):
    if request.param == "space_before":
        return wrapped(with_space_before(), "bos")
    return wrapped(byte_level(), request.param)


def own(tokenizer, windows):
    """The windows' tokens without the special ones that were put before them, joined."""
    before = len(special_tokens(tokenizer).before)
    return [token for window in windows for token in window.token_ids[before:]]


@pytest.mark.parametrize(
    "template, before, after", [("none", (), ()), ("bos", (0,), ()), ("bos_eos", (0,), (1,)), ("eos", (), (1,))]
)
def test_policy(template, before, after):
    policy = special_tokens(wrapped(byte_level(), template))
    assert (policy.before, policy.after) == (before, after)


@pytest.mark.parametrize("text", TEXTS)
def test_a_text_that_fits_has_the_tokens_of_the_tokenizer(tokenizer, text):
    (window,) = cut_windows(text, tokenizer, max_tokens=500)
    assert window.token_ids == tokenizer(text)["input_ids"]
    assert (window.index, window.char_start, window.char_end) == (0, 0, len(text))
    assert (window.problem is None) == (len(window.token_ids) > 1)


@pytest.mark.parametrize("max_tokens", [3, 4, 5, 7, 16])
@pytest.mark.parametrize("end_of_text", [False, True])
def test_windows_tile_tokens_and_text(tokenizer, max_tokens, end_of_text):
    policy = special_tokens(tokenizer)
    ending = [1] if end_of_text or policy.after else []
    batch = cut_windows_batch(TEXTS, tokenizer, max_tokens=max_tokens, end_of_text=end_of_text)
    for text, windows in zip(TEXTS, batch, strict=True):
        assert [window.index for window in windows] == list(range(len(windows)))
        assert all(len(window.token_ids) <= max_tokens for window in windows)
        assert all(tuple(window.token_ids[: len(policy.before)]) == policy.before for window in windows)
        assert own(tokenizer, windows) == tokenizer(text, add_special_tokens=False)["input_ids"] + ending
        assert "".join(text[window.char_start : window.char_end] for window in windows) == text
        assert all(window.problem is None for window in windows) or len(own(tokenizer, windows)) == 1
        assert all(len(window.token_ids) == max_tokens for window in windows[:-2])  # the last but one may lend a token


def test_window_text_is_that_of_its_tokens():
    tokenizer = wrapped(byte_level(), "bos")
    for window in cut_windows(TEXTS[0], tokenizer, max_tokens=5):
        assert tokenizer.decode(window.token_ids[1:]) == TEXTS[0][window.char_start : window.char_end]


def test_no_doubled_special_tokens(tokenizer):
    text = "<s>The river rises in the hills.</s>"
    windows = cut_windows(text, tokenizer, max_tokens=6, end_of_text=True)
    tokens = [token for window in windows for token in window.token_ids]
    opened = sum(token == 0 for token in tokens)
    assert opened == (len(windows) if special_tokens(tokenizer).before else 1)
    assert tokens.count(1) == 1 and tokens[-1] == 1
    assert "".join(text[window.char_start : window.char_end] for window in windows) == text
    assert all(len(window.token_ids) <= 6 for window in windows)


def test_the_last_window_is_never_a_lone_token():
    tokenizer = wrapped(byte_level(), "none")
    text = "1 2 3 4 5"  # nine tokens: a digit, then space and digit alike
    total = len(tokenizer(text)["input_ids"])
    windows = cut_windows(text, tokenizer, max_tokens=total - 1)
    assert [len(window.token_ids) for window in windows] == [total - 2, 2]
    ended = cut_windows(text, tokenizer, max_tokens=total, end_of_text=True)
    assert [len(window.token_ids) for window in ended] == [total - 1, 2]
    assert ended[-1].char_end - ended[-1].char_start > 0


@pytest.mark.parametrize("template", TEMPLATES)
def test_no_window_holds_special_tokens_alone(template):
    tokenizer = wrapped(byte_level(), template)
    text = "1 2 3 4 5 6 7"
    for max_tokens in range(4, 20):
        windows = cut_windows(text, tokenizer, max_tokens=max_tokens, end_of_text=True)
        assert all(set(window.token_ids) - {0, 1} and window.char_end > window.char_start for window in windows)


@pytest.mark.parametrize("text", ["", "7"])
def test_texts_without_a_token_to_predict_are_told(text):
    (window,) = cut_windows(text, wrapped(byte_level(), "none"), max_tokens=8)
    assert len(window.token_ids) < 2 and "fewer than 2 tokens" in window.problem
    assert (window.char_start, window.char_end) == (0, len(text))


def test_special_tokens_alone_are_no_document():
    (window,) = cut_windows("", wrapped(byte_level(), "bos_eos"), max_tokens=8, end_of_text=True)
    assert window.problem


def test_a_batch_is_its_texts(tokenizer):
    batch = cut_windows_batch(TEXTS, tokenizer, max_tokens=6, end_of_text=True)
    assert batch == [cut_windows(text, tokenizer, max_tokens=6, end_of_text=True) for text in TEXTS]
    assert cut_windows_batch([], tokenizer, max_tokens=6) == []


def test_no_warning_and_no_truncation_beyond_the_models_length(caplog):
    tokenizer = wrapped(byte_level(), "bos", model_max_length=8)
    tokenizer.backend_tokenizer.enable_truncation(4)
    tokenizer.backend_tokenizer.enable_padding(length=64)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        (window,) = cut_windows(TEXTS[0], tokenizer, max_tokens=100)
    assert not caplog.records and 8 < len(window.token_ids) < 64


@pytest.mark.parametrize(
    "template, max_tokens, fits", [("none", 2, True), ("bos", 2, True), ("bos_eos", 2, False), ("bos_eos", 3, True)]
)
def test_room_for_special_tokens(template, max_tokens, fits):
    tokenizer = wrapped(byte_level(), template)
    if fits:
        windows = cut_windows(TEXTS[0], tokenizer, max_tokens=max_tokens)
        assert all(len(window.token_ids) <= max_tokens for window in windows)
    else:
        with pytest.raises(BadInput, match=r"max_tokens 2 leaves no room .* the tokenizer's 2 special tokens"):
            cut_windows(TEXTS[0], tokenizer, max_tokens=max_tokens)


def test_end_of_text_needs_a_token():
    with pytest.raises(BadInput, match="the tokenizer has no end-of-sequence token; set end_of_text: false"):
        cut_windows("Hello.", wrapped(byte_level(), "none", eos_token=None), max_tokens=8, end_of_text=True)


def test_a_query_begins_as_a_document_and_does_not_end(tokenizer):
    prompt, completion = tokenize_query("The river", " rises in the hills", tokenizer)
    before = list(special_tokens(tokenizer).before)
    assert prompt == before + tokenizer("The river", add_special_tokens=False)["input_ids"]
    assert tokenizer.decode(prompt[len(before) :] + completion) == "The river rises in the hills"
    assert not {0, 1} & set(completion)
    assert tokenize_query("<s>The river", " rises", tokenizer)[0].count(0) == 1


def test_generated_tokens_stay_as_they_are(tokenizer):
    assert tokenize_query("The river", [7, 8, 1], tokenizer)[1] == [7, 8, 1]
    assert tokenize_query("The river", None, tokenizer)[1] == []


def test_a_completion_continues_its_prompt():
    tokenizer = wrapped(with_space_before(), "bos")
    prompt, completion = tokenize_query("The river", " rises in the hills", tokenizer)
    assert prompt + completion == tokenizer("The river rises in the hills")["input_ids"]
    assert tokenizer(" rises in the hills", add_special_tokens=False)["input_ids"] != completion  # hence not alone


def test_a_token_across_prompt_and_completion_is_split():
    tokenizer = wrapped(byte_level(), "none")
    prompt, completion = tokenize_query("The ri", "ver rises", tokenizer)
    assert tokenizer.decode(prompt) == "The ri" and tokenizer.decode(completion) == "ver rises"


def test_queries_without_tokens(tokenizer):
    with pytest.raises(BadInput, match="the prompt '' has no tokens"):
        tokenize_query("", "x", tokenizer)
    with pytest.raises(BadInput, match="the completion of the prompt 'Hello' has no tokens"):
        tokenize_query("Hello", "", tokenizer)
