"""How well low ranks agree with the full one, as the page of query_gradients tells it."""

from __future__ import annotations

from types import SimpleNamespace

from assets.specs.methods import METHODS
from assets.specs.study import StudyOptions
from assets.study.query_gradients import _told_agreements


def test_every_method_has_its_row_under_a_sentence_that_says_what_was_compared():
    tracking = SimpleNamespace(log_dict=lambda *_: None, log_metrics=lambda *_: None)
    study = SimpleNamespace(spec=SimpleNamespace(options=StudyOptions(agreement_documents=20, min_agreement=0.9)))
    measured = [(method, f"q{number}", 1 - number / 10) for method in METHODS for number in range(3)]
    told = _told_agreements(SimpleNamespace(tracking=tracking), study, measured)["agreement with full rank"].md_str
    assert [line.split("`")[1] for line in told.splitlines() if line.startswith("| `")] == list(METHODS)
    assert "on 20 documents" in told and "below 0.9 (options.min_agreement)" in told and "`q2`" in told
