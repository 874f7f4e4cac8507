"""Fixtures that several tests of assets share."""

from __future__ import annotations

import warnings

import pytest


@pytest.fixture
def no_warnings():
    """A warning of numpy or scipy is a failure."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        yield
