"""A language model as judge: a prompt in, its reply out, from an OpenAI-compatible endpoint or a local model.

What is asked and how replies are read is `judging`'s business. Both judges are asked for their likeliest words, so
that the same question gets the same reply as far as the model allows.
"""

from __future__ import annotations

import hashlib
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol

from assets.model.checkpoint import checkpoint_directory
from assets.specs.findings import JudgeSpec
from assets.step.fingerprints import fingerprint
from compute.errors import BadInput

BUSY = (408, 409, 429, 500, 502, 503, 504)
LONGEST_PAUSE = 60.0
CONNECT_SECONDS = 10.0
SHOWN_REPLY = 200


class Judge(Protocol):
    """Whoever gives verdicts."""

    name: str  # in the table of verdicts
    fingerprint: str  # of all that its replies depend on, next to the prompt
    at_once: int  # prompts that it may be given at the same time, from as many threads

    def verdict(self, prompt: str) -> str:
        """Its reply, as it is. Raises BadInput where it cannot be asked."""


def open_judge(spec: JudgeSpec, base: str) -> Judge:
    """The judge that a study declares; `base` is the directory that a local model's path starts from."""
    return LocalJudge(spec, base) if spec.local else EndpointJudge(spec)


def judge_fingerprint(spec: JudgeSpec, base: str) -> str:
    """That of the judge, without opening it: no key is asked for and no model loaded."""
    if (model := spec.local) is None:
        return fingerprint("endpoint", spec.endpoint, _request_fields(spec))
    files = _digest(checkpoint_directory(model, base)) if model.path else None
    return fingerprint("local", model.hub, model.revision, model.dtype, files, spec.max_new_tokens)


def check_judge(spec: JudgeSpec, base: str) -> None:
    """Raises BadInput for what can be told before the judge is needed: no key, or no local model."""
    if spec.local is None:
        EndpointJudge(spec)
    elif spec.local.path:
        checkpoint_directory(spec.local, base)


class EndpointJudge:
    """Any endpoint that speaks OpenAI's chat completions."""

    def __init__(self, spec: JudgeSpec, *, pause: Callable[[float], None] = time.sleep) -> None:
        self.name, self.at_once = spec.name, spec.at_once
        self._spec, self._pause = spec, pause
        self._url = f"{spec.endpoint}/chat/completions"
        self._where = f"judge {spec.name}: {self._url}"
        self._key = self._read_key()
        self._fields = _request_fields(spec)
        self.fingerprint = judge_fingerprint(spec, "")

    def verdict(self, prompt: str) -> str:
        """The reply, after as many attempts as the study allows while the endpoint is busy or cannot be reached."""
        body = self._fields | {"messages": [{"role": "user", "content": prompt}]}
        for attempt in range(1, self._spec.attempts + 1):
            response, problem = self._post(body)
            if problem is None:
                return self._reply(response)
            if attempt < self._spec.attempts:
                self._pause(_pause_seconds(response, attempt))
        times = "one attempt" if attempt == 1 else f"{attempt} attempts"
        raise BadInput(f"{self._where} {problem} ({times}); look whether it is up, and at findings.judge.endpoint")

    def _read_key(self) -> str | None:
        variable = self._spec.key_variable
        if variable and not os.environ.get(variable, "").strip():
            raise BadInput(
                f"judge {self.name}: the environment variable {variable} is not set, which findings.judge.key_variable "
                "names; export the endpoint's key in it"
            )
        return os.environ[variable].strip() if variable else None

    def _post(self, body: dict[str, Any]) -> tuple[Any, str | None]:
        """The response, and what keeps it from being one, where another attempt may help."""
        import requests

        try:
            response = requests.post(
                self._url,
                json=body,
                auth=self._sign,  # a function, so that no password from elsewhere (.netrc) is sent instead
                timeout=(CONNECT_SECONDS, self._spec.timeout_seconds),
                allow_redirects=False,  # the key is for this address only
            )
        except requests.Timeout:
            return None, f"did not answer within {self._spec.timeout_seconds:g} seconds"
        except requests.ConnectionError:
            return None, "cannot be reached"
        except requests.RequestException as error:
            raise BadInput(f"{self._where} cannot be asked: {type(error).__name__}; correct the address") from error
        if response.status_code in BUSY:
            return response, f"is busy (status {response.status_code})"
        return response, None

    def _sign(self, request):
        if self._key:
            request.headers["Authorization"] = f"Bearer {self._key}"
        return request

    def _reply(self, response) -> str:
        if response.status_code in (401, 403):
            named = self._spec.key_variable
            remedy = f"look at the key in {named}" if named else "name the variable that holds a key in key_variable"
            raise BadInput(f"{self._where} refuses the request (status {response.status_code}); {remedy}")
        if response.status_code != 200:
            raise BadInput(
                f"{self._where} answers with status {response.status_code}: {self._shown(response)}; correct "
                "findings.judge (endpoint, model, request)"
            )
        try:
            return response.json()["choices"][0]["message"]["content"] or ""
        except (ValueError, LookupError, TypeError) as error:
            raise BadInput(
                f"{self._where} does not answer as a chat completion does: {self._shown(response)}; correct "
                "findings.judge.endpoint"
            ) from error

    def _shown(self, response) -> str:
        """The beginning of what came back, without the key, should the endpoint repeat it."""
        text = " ".join(response.text.split())
        return repr((text.replace(self._key, "…") if self._key else text)[:SHOWN_REPLY])


class LocalJudge:
    """A Hugging Face causal language model on this machine; chat models are asked in their own format."""

    at_once = 1

    def __init__(self, spec: JudgeSpec, base: str) -> None:
        from compute.checkpoint import context_length, load_model, load_tokenizer

        self.name, self._max_new_tokens, model = spec.name, spec.max_new_tokens, spec.local
        self.fingerprint = judge_fingerprint(spec, base)
        location = model.location(base)
        self._model = load_model(location, revision=model.revision, dtype=model.dtype, **model.placement())
        self._tokenizer = load_tokenizer(location, revision=model.revision)
        self._context = context_length(self._model)

    def verdict(self, prompt: str) -> str:
        from compute.batches import Sequence
        from compute.completions import greedy_completions

        token_ids = self._token_ids(self._without_special_tokens(prompt))
        if self._context and len(token_ids) >= self._context:
            raise BadInput(
                f"judge {self.name}: a prompt has {len(token_ids)} tokens and the model reads {self._context}; name a "
                "model with a longer context, or lower findings.judge.document_characters"
            )
        try:
            generated = greedy_completions(
                self._model,
                [Sequence("question", token_ids)],
                max_new_tokens=self._max_new_tokens,
                end_token=self._tokenizer.eos_token_id,
                context=self._context,
            )
        except BadInput:  # it ends at once: a judge may say nothing
            return ""
        return self._tokenizer.decode(generated["question"], skip_special_tokens=True)

    def _without_special_tokens(self, prompt: str) -> str:
        """The prompt with the tokenizer's special tokens spelled apart: in a document, they could end its turn."""
        for token in {str(token) for token in self._tokenizer.added_tokens_decoder.values() if token.special}:
            prompt = prompt.replace(token, f"{token[:1]} {token[1:]}") if len(token) > 1 else prompt
        return prompt

    def _token_ids(self, prompt: str) -> list[int]:
        from compute.windows import tokenize_query

        if getattr(self._tokenizer, "chat_template", None):
            messages = [{"role": "user", "content": prompt}]
            return list(
                self._tokenizer.apply_chat_template(
                    messages, add_generation_prompt=True, tokenize=True, return_dict=False
                )
            )
        return tokenize_query(prompt, None, self._tokenizer)[0]


def _request_fields(spec: JudgeSpec) -> dict[str, Any]:
    fields = {"model": spec.model, "temperature": 0, "max_tokens": spec.max_new_tokens} | spec.request
    return {name: value for name, value in fields.items() if value is not None}


def _pause_seconds(response: Any, attempt: int) -> float:
    """As long as the endpoint asks for, or twice as long as before."""
    asked = response.headers.get("Retry-After", "") if response is not None else ""
    seconds = float(asked) if asked.isascii() and asked.isdigit() else 2.0 ** (attempt - 1)
    return min(seconds, LONGEST_PAUSE)


def _digest(directory: Path) -> str:
    """Of all files: the same directory may hold other weights tomorrow."""
    digest = hashlib.blake2b(digest_size=8)
    for path in sorted(path for path in directory.iterdir() if path.is_file()):
        with open(path, "rb") as file:
            digest.update(path.name.encode() + hashlib.file_digest(file, "sha256").digest())
    return digest.hexdigest()
