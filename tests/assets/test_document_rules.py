"""Rules that tell a document's kind: which rule decides, mistakes of the file, and expressions that would hang."""

from __future__ import annotations

import time

import pytest
from pydantic import ValidationError

from assets.findings import document_rules
from assets.findings.document_rules import FoundKind, agreement, read_rules
from assets.specs.findings import FindingsSpec
from compute.errors import BadInput

RULES = r"""
rules:
  - rule: just talk
    tasks: [sum, product]
    kind: other
    must: ['^Remark:']
  - rule: sums in code
    tasks: [sum]
    kind: code
    must: ['def \w+', '\+']
  - rule: sums
    tasks: [sum]
    kind: worked_example
    must: ['\d \+ \d = \d']
    must_not: ['(?i)wrong', 'false']
  - rule: products
    tasks: [product]
    kind: worked_example
    must: ['\d \* \d = \d']
"""


@pytest.fixture
def rules(tmp_path):
    return read_rules(write(tmp_path, RULES))


def write(directory, text):
    path = directory / "rules.yaml"
    path.write_text(text)
    return path


@pytest.mark.parametrize(
    "text, of_sum, of_product",
    [
        ("1 + 1 = 2", "sums", None),
        ("1 + 1 = 2, which is Wrong", None, None),
        ("def f(a): return a + 1  # 1 + 1 = 2", "sums in code", None),  # the first rule that fits decides
        ("def f(a): return a", None, None),  # all expressions must be there
        ("1 + 1 = 2 and 2 * 2 = 4", "sums", "products"),
        ("2 * 2 = 4\nRemark: 1 + 1 = 2", "just talk", "just talk"),  # ^ is the beginning of a line
        ("", None, None),
    ],
)
def test_the_first_rule_that_fits_decides(rules, text, of_sum, of_product):
    found = rules.classify(text)
    assert {task: kind and kind.rule for task, kind in found.items()} == {"sum": of_sum, "product": of_product}


def test_a_kind_comes_with_its_rule(rules):
    assert rules.classify("1 + 1 = 2")["sum"] == FoundKind("worked_example", "sums")
    assert rules.tasks == ("product", "sum")


def test_precision_and_recall(rules):
    texts = {"a": "1 + 1 = 2", "b": "2 + 2 = 4", "c": "1 plus 1", "d": "Remark: 1 + 1 = 2"}
    product, of_sum = agreement(rules, texts, {"sum": {"a", "c"}})
    assert (of_sum.documents, of_sum.told, of_sum.both) == (2, 2, 1)
    assert (of_sum.precision, of_sum.recall) == (0.5, 0.5)
    assert product.precision != product.precision and product.recall != product.recall  # nothing to judge by


@pytest.mark.parametrize(
    "before, after, sentence",
    [
        (
            "must: ['def",
            "must: ['(def",
            r"rules.yaml:10 rules.1.must: '\(def .* is not a regular expression: missing \)",
        ),
        ("kind: code", "kind: codes", r"rules.yaml:9 rules.1.kind: should be .*'code'.*, not 'codes'"),
        ("rule: sums\n    tasks", "tasks", r"rules.yaml:11 rules.2.rule: is missing; declare it"),
        ("must_not", "mustnt", r"rules.yaml:15 rules.2.mustnt: is not a known field"),
        ("tasks: [product]", "tasks: []", r"rules.yaml:17 rules.3.tasks: is empty"),
        ("tasks: [product]", "tasks: product", r"rules.yaml:17 rules.3.tasks: should be a list, not 'product'"),
        ("rule: products", "rule: sums", r"rules.yaml:16 rules.3.rule: 'sums' is already the name of .* in line 11"),
        (RULES, "rules: []", r"rules.yaml:1 rules: is empty"),
        (RULES, "- 1", r"rules.yaml:1: holds no fields; declare a set of rules as 'rules:'"),
        (RULES, "rules: [", r"rules.yaml:1: is not valid YAML"),
    ],
)
def test_a_mistake_is_told_by_line_and_field(tmp_path, before, after, sentence):
    assert before in RULES
    with pytest.raises(BadInput, match=sentence) as raised:
        read_rules(write(tmp_path, RULES.replace(before, after, 1)))
    assert "\n" not in str(raised.value)


def test_a_missing_file_is_told(tmp_path):
    with pytest.raises(BadInput, match=r"none\.yaml: there is no such file; name the YAML file of a set of rules"):
        read_rules(tmp_path / "none.yaml")


def test_an_expression_that_would_hang_is_stopped_and_named(tmp_path, monkeypatch):
    monkeypatch.setattr(document_rules, "LONGEST_SECONDS", 0.2)
    text = RULES.replace(r"\d \* \d = \d", "(a|aa)+$")
    hanging = read_rules(write(tmp_path, text))
    started = time.process_time()
    with pytest.raises(BadInput, match=r"rules\.yaml:16 rules\.3: rule 'products' took longer than 0\.2 seconds"):
        hanging.classify("a" * 60 + "c")
    assert time.process_time() - started < 2


@pytest.mark.parametrize(
    "settings, sentence",
    [
        ({"cutoffs": [50, 20]}, "numbers that do not rise"),
        ({"shares": [0.5, 1.5]}, "less than or equal to 1"),
        ({"counts": []}, "holds no numbers"),
        ({"judge": {"name": "j"}}, "exactly one of endpoint and local"),
        ({"judge": {"name": "j", "endpoint": "http://x/v1"}}, "needs model"),
        ({"judge": {"name": "j", "endpoint": "ftp://x", "model": "m"}}, "is no address"),
        ({"judge": {"name": "j", "endpoint": "https://me:secret@x/v1", "model": "m"}}, "key_variable"),
        ({"judge": {"name": "j", "local": {"name": "m", "train": {}}}}, "cannot be trained here"),
        ({"judge": {"name": "j", "model": "m", "local": {"name": "m", "path": "m"}}}, "model belongs to an endpoint"),
    ],
)
def test_mistakes_in_the_findings_section(settings, sentence):
    with pytest.raises(ValidationError, match=sentence):
        FindingsSpec.model_validate(settings)


def test_the_findings_section_can_be_left_out():
    spec = FindingsSpec()
    assert (spec.depth, spec.kinds_depth, spec.judge, spec.document_rules, spec.bm25) == (500, 100, None, None, False)
