"""Studies as files: read, checked against their declaration, and kept in one directory that the Dagster UI loads."""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from pydantic import BaseModel, ValidationError

from assets.study.spec import Study, StudySpec
from compute.errors import BadInput
from orchestration.home import Home
from orchestration.yaml_positions import Document, read_yaml

SHARED_PARTS = ("corpus", "model", "curvature", "queries")


@dataclass(frozen=True)
class LoadedStudy:
    """One study file: the study, or the sentence (one line per mistake) that says why it is left out."""

    path: Path
    study: Study | None = None
    error: str | None = None


def open_study(path: Path, home: Home) -> Study:
    """Reads a study file and registers it, so that the UI shows it too. Raises BadInput naming file, line and field."""
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
    """Every study file of the directory; a bad one, or one that contradicts an earlier one, leaves the others working."""
    loaded: list[LoadedStudy] = []
    for path in sorted([*directory.glob("*.yaml"), *directory.glob("*.yml")]):
        try:
            study = read_study(path)
            _check_conflicts(path, study, loaded)
            loaded.append(LoadedStudy(path, study))
        except BadInput as error:
            loaded.append(LoadedStudy(path, error=str(error)))
    return loaded


def validated(document: Document, model: type[StudySpec]) -> StudySpec:
    """The document as `model`. Raises BadInput with one line per mistake: file:line field: reason."""
    try:
        return model.model_validate(document.content)
    except ValidationError as error:
        raise BadInput("\n".join(_mistake(document, model, each) for each in error.errors())) from error


def _mistake(document: Document, model: type[BaseModel], error: dict) -> str:
    location = error["loc"]
    if error["type"] not in ("missing", "extra_forbidden"):  # pydantic appends which branch of a union it tried
        location = next(location[:end] for end in range(len(location), -1, -1) if location[:end] in document.lines)
    place = f"{document.path}:{document.line(location)}"
    field = ".".join(map(str, location))
    return f"{place} {field}: {_reason(model, error)}" if field else f"{place}: {_reason(model, error)}"


def _reason(model: type[BaseModel], error: dict) -> str:
    if error["type"] == "missing":
        return "is missing; declare it"
    if error["type"] == "extra_forbidden":
        known = _known_fields(model, error["loc"][:-1])
        near = difflib.get_close_matches(str(error["loc"][-1]), known, n=1)
        return f"is not a known field; did you mean {near[0]}?" if near else f"is not a known field; known: {', '.join(known)}"
    return error["msg"].removeprefix("Value error, ")


def _known_fields(model: type[BaseModel], location: tuple) -> list[str]:
    """Field names of the model at a path inside `model`, as far as the path can be followed through plain fields."""
    for part in location:
        annotation = model.model_fields[part].annotation if part in model.model_fields else None
        inner = [t for t in (annotation, *getattr(annotation, "__args__", ())) if _is_model(t)]
        if not inner:
            return []
        model = inner[0]
    return list(model.model_fields)


def _is_model(candidate: object) -> bool:
    return isinstance(candidate, type) and issubclass(candidate, BaseModel)


def _register(path: Path, study: Study, directory: Path) -> None:
    """Links a study file from elsewhere into the studies directory, under the study's name."""
    if path.parent.resolve() == directory.resolve():
        return
    link = directory / f"{study.name}.yaml"
    if link.is_symlink() and not link.exists():
        link.unlink()  # the file that it pointed to is gone
    if not link.exists():
        link.symlink_to(path.resolve())


def _check_conflicts(path: Path, study: Study, others: Iterable[LoadedStudy]) -> None:
    for other in others:
        if other.study is None:
            continue
        if other.study.name == study.name:
            raise BadInput(f"{path}: study {study.name} is already declared by {other.path}; give it another name")
        if conflict := _conflict(study, other.study):
            raise BadInput(f"{path}: {conflict}, which {other.path} declares differently; give it another name")


def _conflict(study: Study, other: Study) -> str | None:
    """The first part that both name alike but declare differently; such a part would be two things under one key."""
    for part in SHARED_PARTS:
        mine, theirs = getattr(study.spec, part), getattr(other.spec, part)
        if mine.name != theirs.name:
            continue
        for field in type(mine).model_fields:
            if getattr(mine, field) != getattr(theirs, field):
                return f"{part}.{field} of {part} {mine.name} is {getattr(mine, field)!r}"
        if part != "curvature" and _paths(mine, study.base) != _paths(theirs, other.base):
            return f"{part}.path of {part} {mine.name} is {_paths(mine, study.base)}"
    return _fit_conflict(study, other)


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
    return [str((Path(base) / path).absolute()) for path in ((paths,) if isinstance(paths, str) else paths)]
