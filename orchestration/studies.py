"""Studies as files: read, checked, and kept in one directory that the Dagster UI loads."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from pydantic import BaseModel

from assets.study.spec import Study, StudySpec
from compute.errors import BadInput
from orchestration.home import Home
from orchestration.mistakes import validated
from orchestration.yaml_positions import read_yaml


@dataclass(frozen=True)
class LoadedStudy:
    """One study file: the study, or the sentence (one line per mistake) that says why it is left out."""

    path: Path
    study: Study | None = None
    error: str | None = None


def open_study(path: Path, home: Home) -> Study:
    """Reads a study file and registers it, so that the UI shows it too. Raises BadInput naming file, line and
    field.
    """
    path = path.expanduser().absolute()
    study = read_study(path)
    others = [other for other in load_studies(home.studies) if other.path.resolve() != path.resolve()]
    _check_conflicts(path, study, others)
    _register(path, study, home.studies)
    return study


def read_study(path: Path) -> Study:
    """One study file. Relative paths in it start from the directory of the file itself, links followed."""
    real = path.resolve()
    return Study(validated(read_yaml(real), StudySpec), str(real.parent))


def load_studies(directory: Path) -> list[LoadedStudy]:
    """Every study file of the directory; a bad one, or one that contradicts an earlier one, leaves the others
    working.
    """
    loaded: list[LoadedStudy] = []
    for path in sorted([*directory.glob("*.yaml"), *directory.glob("*.yml")]):
        try:
            study = read_study(path)
            _check_conflicts(path, study, loaded)
            loaded.append(LoadedStudy(path, study))
        except BadInput as error:
            loaded.append(LoadedStudy(path, error=str(error)))
    return loaded


def _register(path: Path, study: Study, directory: Path) -> Path:
    """Links a study file from elsewhere into the studies directory, under the study's name. Returns the link."""
    if path.parent.resolve() == directory.resolve():
        return path
    directory.mkdir(parents=True, exist_ok=True)
    link = directory / f"{study.name}.yaml"
    if link.is_symlink() and not link.exists():
        link.unlink(missing_ok=True)  # the file that it pointed to is gone
    try:
        link.symlink_to(path.resolve())
    except FileExistsError as error:
        if link.resolve() != path.resolve():
            raise BadInput(
                f"{path}: study {study.name} is already declared by {link.resolve()}; give one of them another name"
            ) from error
    return link


def _check_conflicts(path: Path, study: Study, others: Iterable[LoadedStudy]) -> None:
    for other in others:
        if other.study is None:
            continue
        if other.study.name == study.name:
            raise BadInput(
                f"{path}: study {study.name} is already declared by {other.path.resolve()}; give it another name"
            )
        if conflict := _conflict(study, other.study):
            declared = other.path.resolve()
            raise BadInput(f"{path}: {conflict}, which {declared} declares differently; give one of them another name")


def _conflict(study: Study, other: Study) -> str | None:
    """The first part that both name alike but declare differently: it would be two things under one key."""
    for label, mine in _parts(study):
        for _, theirs in _parts(other):
            if type(mine) is not type(theirs) or mine.name != theirs.name:
                continue
            if field := _difference(mine, study.base, theirs, other.base):
                value = ", ".join(_paths(mine, study.base)) if field == "path" else repr(getattr(mine, field))
                return f"{label}.{field} of {label} {mine.name} is {value}"
    return _fit_conflict(study, other)


def _parts(study: Study) -> Iterator[tuple[str, BaseModel]]:
    """What studies share by name; a query-side checkpoint is a model like any other."""
    for label in ("corpus", "model", "query_model", "curvature", "queries"):
        if part := getattr(study.spec, label):
            yield label, part


def _difference(mine: BaseModel, base: str, theirs: BaseModel, their_base: str) -> str | None:
    """The first field that differs; paths are compared as what they lead to."""
    for field in type(mine).model_fields:
        if field != "path" and getattr(mine, field) != getattr(theirs, field):
            return field
    return "path" if _paths(mine, base) != _paths(theirs, their_base) else None


def _fit_conflict(study: Study, other: Study) -> str | None:
    """A fit belongs to one model and one corpus; a corpus cut by a model's tokenizer to that model."""
    mine, theirs = study.spec, other.spec
    if mine.curvature.name == theirs.curvature.name:
        for part in ("model", "corpus"):
            if getattr(mine, part).name != getattr(theirs, part).name:
                return f"curvature {mine.curvature.name} is fitted on {part} {getattr(mine, part).name}"
    trained_on_it = mine.model.train and mine.model.name == theirs.model.name
    if trained_on_it and mine.corpus.name != theirs.corpus.name:
        return f"model {mine.model.name} is trained on corpus {mine.corpus.name}"
    takes_tokenizer = mine.corpus.tokenizer.checkpoint and mine.corpus.name == theirs.corpus.name
    if takes_tokenizer and mine.model.name != theirs.model.name:
        return f"corpus {mine.corpus.name} is cut with the tokenizer of model {mine.model.name}"
    return None


def _paths(part: BaseModel, base: str) -> list[str]:
    paths = getattr(part, "path", None) or ()
    return [os.path.normpath(Path(base) / path) for path in ((paths,) if isinstance(paths, str) else paths)]
