"""Settings that cannot be had are told before the work, by the command line and by every step that opens the model."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from assets.model.settings import check_settings
from compute.errors import BadInput
from compute.tracked_modules import TrackedModule
from orchestration.preflight import preflight
from orchestration.studies import read_study
from tests.orchestration.test_bounded_memory import failure
from tests.orchestration.tiny_study import write_study

MODULES = [TrackedModule("wide", 64, 32, True), TrackedModule("narrow", 64, 16, False)]
NARROW = {
    "model.dtype": ({"model": {"dtype": "bfloat16"}}, "write float16 or float32"),
    "options.products": ({"options": {"products": "bfloat16"}}, "write float32"),
    "options.ablation.precisions": ({"options": {"ablation": {"ranks": [4], "blocks": [2]}}}, r"write \[\]"),
}


def on_a_gpu(monkeypatch, *, has_bfloat16: bool) -> None:
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation=True: has_bfloat16)


@pytest.mark.parametrize(
    ("rank", "words"), [(16, None), ("full", None), ("auto", None), (17, "above 16, the smaller dimension of narrow")]
)
def test_a_rank_is_at_most_the_smallest_dimension(tmp_path, rank, words):
    study = read_study(write_study(tmp_path, options={"rank": rank}))
    if words is None:
        check_settings(study, MODULES, "cpu")
        return
    with pytest.raises(BadInput, match=f"^options.rank: 17 is {words}; lower it, or write 'full'$"):
        check_settings(study, MODULES, "cpu")


@pytest.mark.parametrize("field", NARROW)
def test_a_gpu_without_instructions_for_a_precision_is_told_of(tmp_path, monkeypatch, field):
    changes, advice = NARROW[field]
    study = read_study(write_study(tmp_path, **changes))
    on_a_gpu(monkeypatch, has_bfloat16=False)
    check_settings(study, MODULES, "cpu")
    with pytest.raises(BadInput, match=f"^{field}: bfloat16 has no instructions on this cuda device.*; {advice}$"):
        check_settings(study, MODULES, "cuda")
    on_a_gpu(monkeypatch, has_bfloat16=True)
    check_settings(study, MODULES, "cuda")


def test_preflight_looks(tmp_path, monkeypatch):
    monkeypatch.setattr("compute.checkpoint.best_device", lambda: "cuda")
    on_a_gpu(monkeypatch, has_bfloat16=False)
    with pytest.raises(BadInput, match=r"^model\.dtype: bfloat16 has no instructions"):
        preflight(read_study(write_study(tmp_path, model={"dtype": "bfloat16"})))


def test_every_dtype_of_a_model_multiplies_on_a_cpu():
    """What the check relies on."""
    for dtype in (torch.float16, torch.bfloat16, torch.float64):
        a, b = torch.ones(2, 3, 4, dtype=dtype), torch.ones(2, 4, 3, dtype=dtype)
        assert torch.bmm(a, b, out=torch.empty(2, 3, 3, dtype=dtype)).sum() == 72 and (a[0] @ b[0]).sum() == 36
        assert torch.nn.functional.layer_norm(a, (4,)).dtype == dtype


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"options": {"rank": 4096}}, "options.rank: 4096 is above 32, the smaller dimension of"),
        ({"options": {"products": "bfloat16"}}, "options.products: bfloat16 has no instructions on this cpu device"),
    ],
)
def test_a_study_that_is_edited_later_is_refused_by_its_step(copied, monkeypatch, changes, words):
    """Dagster's UI materializes it without the command line's look."""
    monkeypatch.setattr("compute.machine.lacks_instructions", lambda _, dtype: dtype == "bfloat16")
    edited = replace(copied, study=read_study(write_study(copied.directory, **changes)))
    assert words in failure(edited.materialize("study/tiny/query_gradients"))
