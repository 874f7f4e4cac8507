"""A trained checkpoint as a version of a registered model in MLflow, from which people and services load it by name.

The lake stays the truth: the registry holds a copy that `mlflow.transformers.load_model` understands.
"""

from __future__ import annotations

import hashlib
import json
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from assets.tracking.tracked_run import StepRun, mlflow_name

WEIGHTS_TAG = "weights"
"""Version tag: digest of the weights' files, by which the same weights are found again."""
MODEL_TYPE = "causal language model"
VERSIONS_TAG = "mlflow.modelVersions"  # where MLflow's UI looks for the way from a logged model to its versions


def registered_name(model: str) -> str:
    """MLflow's names are one flat list that others use too, and hold no slash."""
    return f"headwater-{model}"


def register_checkpoint(
    run: StepRun, model: str, directory: Callable[[], Path], tags: Mapping[str, object]
) -> str | None:
    """The version under which the weights in `directory` are registered; they are not registered twice.

    `directory` is asked for only where tracking is up. None where it is down: the run has warned, and work goes on.
    """
    return run.attempt("register the checkpoint", lambda client: _registered(client, run, model, directory(), tags))


def _registered(client: Any, run: StepRun, model: str, directory: Path, tags: Mapping[str, object]) -> str:
    name, weights = registered_name(model), _weights_digest(directory)
    if known := client.search_model_versions(f"name = '{name}' and tags.{WEIGHTS_TAG} = '{weights}'"):
        return str(known[0].version)
    texts = {mlflow_name(tag): str(value) for tag, value in {**tags, WEIGHTS_TAG: weights}.items()}
    with tempfile.TemporaryDirectory() as packed:
        _pack(directory, Path(packed, "model"), name)
        logged = _log_model(client, run, name, Path(packed, "model"), texts)
    _make_registered_model(client, name, model)
    version = client.create_model_version(
        name, logged.artifact_location, run_id=run.run_id, model_id=logged.model_id, tags=texts, await_creation_for=0
    ).version
    client.set_logged_model_tags(logged.model_id, {VERSIONS_TAG: json.dumps([{"name": name, "version": version}])})
    return str(version)


def _pack(directory: Path, packed: Path, name: str) -> None:
    """Writes the checkpoint in MLflow's own layout. From its directory alone MLflow cannot: it stumbles over the way
    transformers 5 lists its pipelines."""
    import mlflow.transformers
    from huggingface_hub import ModelCard

    from compute.checkpoint import load_model, load_tokenizer

    parts = {"model": load_model(str(directory), device="cpu"), "tokenizer": load_tokenizer(str(directory))}
    card = ModelCard(f"---\ntags: [headwater]\n---\n# {name}\n\nTrained from scratch by a Headwater study.\n")
    mlflow.transformers.save_model(
        parts,
        str(packed),
        task="text-generation",
        model_card=card,  # without one, the hub is asked
        pip_requirements=["torch", "transformers"],  # without these, the model is run to see what it imports
    )


def _log_model(client: Any, run: StepRun, name: str, packed: Path, tags: Mapping[str, str]) -> Any:
    """The packed model as an output of the step's run."""
    from mlflow.entities import LoggedModelOutput

    logged = client.create_logged_model(
        run.experiment, name=name, source_run_id=run.run_id, tags=dict(tags), model_type=MODEL_TYPE
    )
    client.log_model_artifacts(logged.model_id, str(packed))
    client.finalize_logged_model(logged.model_id, "READY")
    client.log_outputs(run.run_id, [LoggedModelOutput(logged.model_id, step=0)])
    return logged


def _make_registered_model(client: Any, name: str, model: str) -> None:
    from mlflow.exceptions import MlflowException

    try:
        client.create_registered_model(name, description=f"Checkpoints of model {model}, trained by Headwater studies.")
    except MlflowException as error:
        if error.error_code != "RESOURCE_ALREADY_EXISTS":
            raise


def _weights_digest(directory: Path) -> str:
    digest = hashlib.sha256()
    for path in sorted(directory.glob("*.safetensors")):
        with open(path, "rb") as file:
            digest.update(hashlib.file_digest(file, "sha256").digest())
    return digest.hexdigest()[:16]
