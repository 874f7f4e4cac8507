"""On a GPU the memory that is bound for gradients has to be there before work: halving a batch does not lower it."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch

from assets.model.memory import refuse_bound_beyond_gpu, refuse_study_beyond_memory
from assets.specs.study import Study
from compute.cost import CostModel
from compute.errors import BadInput
from orchestration.studies import read_study
from tests.compute.models import make_case
from tests.orchestration.tiny_study import write_study

MIB = 2**20


def on_a_gpu(monkeypatch, *, free: float = 0, whole: float = 0) -> None:
    """Of what is free, PyTorch keeps 16 MiB."""
    monkeypatch.setattr("compute.checkpoint.best_device", lambda: "cuda")
    monkeypatch.setattr("compute.devices.input_device", lambda _: torch.device("cuda", 0))
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda _: (int(free) - 16 * MIB, 80 * 2**30))
    monkeypatch.setattr(torch.cuda, "memory_reserved", lambda _: 40 * MIB)
    monkeypatch.setattr(torch.cuda, "memory_allocated", lambda _: 24 * MIB)
    monkeypatch.setattr("compute.machine.gpu_memory", lambda: int(whole))


def test_the_bound_must_be_free_next_to_the_loaded_model(tmp_path, monkeypatch, capsys):
    study: Study = read_study(write_study(tmp_path))
    assert study.spec.options.memory_mib == 2048
    on_a_gpu(monkeypatch, free=2048 * MIB)
    refuse_bound_beyond_gpu(study, "influence", None)
    on_a_gpu(monkeypatch, free=2046 * MIB)
    told = "influence needs about 2,048 MiB .*, and 2,046 MiB are there; lower options.memory_mib; options.memory_check"
    with pytest.raises(BadInput, match=told):
        refuse_bound_beyond_gpu(study, "influence", None)
    refuse_bound_beyond_gpu(read_study(write_study(tmp_path, options={"memory_check": "warn"})), "influence", None)
    assert "it goes on, as options.memory_check says" in capsys.readouterr().err


def test_a_cpu_is_not_asked(tmp_path):
    refuse_bound_beyond_gpu(read_study(write_study(tmp_path)), "influence", make_case("gpt2").model)


@pytest.mark.parametrize(("changes", "needed"), [({}, 2048 + 1000), ({"model": {"device_map": "auto"}}, 2048)])
def test_the_bound_and_the_weights_must_be_there_before_anything_is_loaded(tmp_path, monkeypatch, changes, needed):
    """What is there as a whole: another run may have taken of it for now."""
    case, study = make_case("gpt2"), read_study(write_study(tmp_path, **changes))
    sizes = {"documents": 60, "tokens": 32, "queries": 3}
    monkeypatch.setattr(CostModel, "stage", lambda *_: SimpleNamespace(memory={"weights": 1000 * MIB}))
    on_a_gpu(monkeypatch, whole=(needed + 1) * MIB)
    refuse_study_beyond_memory(study, case.model, case.modules, **sizes)
    on_a_gpu(monkeypatch, whole=(needed - 1) * MIB)
    with pytest.raises(BadInput, match=f"influence needs about {needed:,} MiB of memory .*; lower options.memory_mib"):
        refuse_study_beyond_memory(study, case.model, case.modules, **sizes)
