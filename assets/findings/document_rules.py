"""What kind of document a text is for a task, told by rules of regular expressions from a file of the study.

The first rule of a task, in the file's order, whose `must` expressions all occur in the text and whose `must_not`
expressions do not, tells the document's kind; a rule of kind `other` settles that it is none. A text that no rule fits
has no kind. Rules see nothing but the text.

Expressions are those of the `regex` package, because its searches can be given a time limit: an expression that loops
for ages over some text ends as a mistake of the rules file and not as a step that hangs. Its result never depends on
time: a search is finished, or the whole shard fails.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import regex
from pydantic import Field, field_validator

from assets.specs.mistakes import validated
from assets.specs.spec import FieldName, Spec
from assets.specs.yaml_positions import Document, read_yaml
from compute.errors import BadInput

WORKED_EXAMPLE, CODE, FACT, OTHER = "worked_example", "code", "fact", "other"
PROCEDURAL = (WORKED_EXAMPLE, CODE)
"""The kinds that show how to do a task, rather than what its answer is."""

LONGEST_SECONDS = 2.0  # of computing, for one expression on one document; a good one takes microseconds
FLAGS = regex.MULTILINE  # ^ and $ are the ends of lines


class RuleSpec(Spec):
    """One rule as the file declares it."""

    rule: FieldName = Field(description="The rule's name, in tables and messages.")
    tasks: tuple[FieldName, ...] = Field(min_length=1, description="The queries' tasks that it tells about.")
    kind: Literal["worked_example", "code", "fact", "other"] = Field(description="What a document is that fits.")
    must: tuple[FieldName, ...] = Field(min_length=1, description="Expressions that all occur in the text.")
    must_not: tuple[FieldName, ...] = Field((), description="Expressions of which none occurs in it.")

    @field_validator("must", "must_not")
    @classmethod
    def _can_be_read(cls, expressions: tuple[str, ...]) -> tuple[str, ...]:
        for expression in expressions:
            try:
                regex.compile(expression, FLAGS)
            except (regex.error, RecursionError) as error:
                raise ValueError(f"{expression!r} is not a regular expression: {error}; correct it") from error
        return expressions


class RulesFile(Spec):
    """A file of rules."""

    rules: tuple[RuleSpec, ...] = Field(min_length=1, description="The rules, the ones that decide first at the top.")


@dataclass(frozen=True, slots=True)
class FoundKind:
    """What a document is for a task, and the rule that says so."""

    kind: str
    rule: str


@dataclass(frozen=True, slots=True)
class _Rule:
    name: str
    tasks: frozenset[str]
    kind: str
    must: tuple[regex.Pattern, ...]
    must_not: tuple[regex.Pattern, ...]
    place: str


class DocumentRules:
    """The rules of a file, ready to be used."""

    def __init__(self, content: RulesFile, document: Document) -> None:
        self.content = content  # its model_dump belongs into the fingerprint of what the rules tell
        self._rules = [
            _Rule(
                rule.rule,
                frozenset(rule.tasks),
                rule.kind,
                tuple(regex.compile(expression, FLAGS) for expression in rule.must),
                tuple(regex.compile(expression, FLAGS) for expression in rule.must_not),
                document.place(("rules", number)),
            )
            for number, rule in enumerate(content.rules)
        ]
        self.tasks = tuple(sorted({task for rule in content.rules for task in rule.tasks}))

    def classify(self, text: str) -> dict[str, FoundKind | None]:
        """For each task that the rules name, what the text is; None where no rule fits.

        Raises BadInput naming the rule whose expressions take too long.
        """
        found: dict[str, FoundKind | None] = dict.fromkeys(self.tasks)
        open_tasks = set(self.tasks)
        for rule in self._rules:
            if open_tasks & rule.tasks and _fits(rule, text):
                found |= dict.fromkeys(open_tasks & rule.tasks, FoundKind(rule.kind, rule.name))
                open_tasks -= rule.tasks
        return found


def read_rules(path: Path) -> DocumentRules:
    """The rules of a file. Raises BadInput with one line per mistake: file:line field: reason."""
    document = read_yaml(path, what="set of rules", fields="'rules:' and a list")
    content = validated(document, RulesFile)
    if lines := list(_taken_names(document, content)):
        raise BadInput("\n".join(lines))
    return DocumentRules(content, document)


def _taken_names(document: Document, content: RulesFile) -> Iterator[str]:
    first: dict[str, int] = {}
    for number, rule in enumerate(content.rules):
        if first.setdefault(rule.rule, number) != number:
            line = document.line(("rules", first[rule.rule]))
            place = document.place(("rules", number, "rule"))
            yield f"{place}: {rule.rule!r} is already the name of the rule in line {line}; give each its own"


def _fits(rule: _Rule, text: str) -> bool:
    try:
        return all(pattern.search(text, timeout=LONGEST_SECONDS) for pattern in rule.must) and not any(
            pattern.search(text, timeout=LONGEST_SECONDS) for pattern in rule.must_not
        )
    except TimeoutError as error:
        raise BadInput(
            f"{rule.place}: rule {rule.name!r} took longer than {LONGEST_SECONDS:g} seconds on one document of "
            f"{len(text)} characters; write it without a repetition inside of a repetition"
        ) from error


@dataclass(frozen=True)
class Agreement:
    """How well the rules tell the documents of a task: against what is known of them."""

    task: str
    documents: int  # that are of the task in truth
    told: int  # that the rules say are
    both: int

    @property
    def precision(self) -> float:
        return self.both / self.told if self.told else float("nan")

    @property
    def recall(self) -> float:
        return self.both / self.documents if self.documents else float("nan")


def agreement(rules: DocumentRules, texts: Mapping[str, str], truth: Mapping[str, set[str]]) -> list[Agreement]:
    """Per task of the rules, precision and recall of "is of a kind other than `other`".

    `texts` has the text by document; `truth`, by task, the documents that show its procedure or state its facts.
    """
    told: dict[str, set[str]] = {task: set() for task in rules.tasks}
    for document_id, text in texts.items():
        for task, found in rules.classify(text).items():
            if found and found.kind != OTHER:
                told[task].add(document_id)
    return [
        Agreement(task, len(truth.get(task, set())), len(told[task]), len(told[task] & truth.get(task, set())))
        for task in rules.tasks
    ]
