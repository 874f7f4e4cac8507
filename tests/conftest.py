"""Settings and fixtures that all tests share. Fixtures import torch themselves: the other floors' tests start fast."""

from __future__ import annotations

import os

import pytest

os.environ.setdefault("OMP_NUM_THREADS", "1")  # tiny tensors: a second thread costs more than it does
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")


@pytest.fixture(scope="session", params=["gpt_neox", "gpt2", "llama"])
def case(request):
    """A tiny float64 model of each architecture, its MLP modules, documents and queries; tests leave it unchanged."""
    from tests.compute.models import make_case

    return make_case(request.param)


@pytest.fixture(scope="session")
def neox_case():
    """The same for one architecture, where the architecture does not matter."""
    from tests.compute.models import make_case

    return make_case("gpt_neox")


@pytest.fixture(scope="session")
def fitted(case):
    """The engine's own EK-FAC fit of `case` with the data's labels."""
    from tests.compute.models import fit

    return fit(case)


@pytest.fixture(scope="session")
def neox_fitted(neox_case):
    from tests.compute.models import fit

    return fit(neox_case)
