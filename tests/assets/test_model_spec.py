"""How a study file places a model's weights on devices."""

from __future__ import annotations

import pytest
from pydantic import ValidationError

from assets.specs.model import ModelSpec


def test_one_device_unless_the_file_says_otherwise():
    assert ModelSpec(name="m", path="model").placement() == {"spread": False, "max_memory": None}


def test_devices_are_numbers_or_the_cpu():
    spec = ModelSpec(
        name="m", path="model", device_map="auto", max_memory={"0": "70GiB", "1": "1.5GiB", "cpu": "200GB"}
    )
    assert spec.placement() == {"spread": True, "max_memory": {0: "70GiB", 1: "1.5GiB", "cpu": "200GB"}}
    assert ModelSpec(name="m", path="model", device_map="auto").placement() == {"spread": True, "max_memory": None}


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"max_memory": {"0": "1GiB"}}, "max_memory belongs to device_map: auto; there is none"),
        (
            {"device_map": "auto", "max_memory": {"gpu": "1GiB"}},
            "max_memory names the device gpu; write the number of a",
        ),
        ({"device_map": "auto", "max_memory": {"²": "1GiB"}}, "max_memory names the device ²; write the number of a"),
        ({"device_map": "auto", "max_memory": {"0": "lots"}}, "String should match pattern"),
        ({"device_map": "balanced"}, "auto"),
    ],
)
def test_what_is_no_placement_is_told(fields, words):
    with pytest.raises(ValidationError, match=words):
        ModelSpec(name="m", path="model", **fields)
