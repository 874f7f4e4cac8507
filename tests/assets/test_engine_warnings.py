"""Warnings of the engine reach whoever watches the step, once and only while it runs."""

from __future__ import annotations

import logging

from assets.step.engine_warnings import engine_warnings


def test_a_warning_is_told_in_the_log_and_in_the_terminal(capsys):
    told: list[str] = []
    engine = logging.getLogger("compute.passes")
    with engine_warnings(told.append):
        engine.warning("out of memory: %d", 64)
        engine.info("nothing to tell")
    engine.warning("after the step")
    assert told == ["out of memory: 64"]
    assert capsys.readouterr().err.count("out of memory: 64") == 1
