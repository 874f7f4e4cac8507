"""Studies as files: read, checked, and kept in one directory that the Dagster UI loads."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from assets.specs.mistakes import near_matches, shown_value, validated
from assets.specs.model import ModelSpec
from assets.specs.study import Study, StudySpec
from assets.specs.yaml_positions import Document, Location, read_yaml
from assets.step.declaring import dagster_name
from compute.errors import BadInput
from orchestration.home import Home
from orchestration.names import check_names, shown


@dataclass(frozen=True)
class LoadedStudy:
    """One study file: the study, or the sentence (one line per mistake) that says why it is left out."""

    path: Path
    study: Study | None = None
    error: str | None = None
    document: Document | None = None  # where in the file its values stand

    @property
    def file(self) -> Path:
        """The file itself, links followed as far as they lead."""
        return Path(os.path.realpath(self.path))


def open_study(path: Path, home: Home, preflight: Callable[[Study], None] | None = None) -> Study:
    """Reads a study file and registers it, so that the UI shows it too. Raises BadInput naming file, line and
    field, and what `preflight` raises: what is refused is not registered.
    """
    path = path.expanduser().absolute()
    loaded = _read(path)
    others = [other for other in load_studies(home.studies) if other.file != loaded.file]
    _check_conflicts(loaded, others)
    if preflight:
        preflight(loaded.study)
    _register(loaded, home.studies)
    return loaded.study


def read_study(path: Path) -> Study:
    """One study file. Relative paths in it start from the directory of the file itself, links followed."""
    return _read(path).study


def _read(path: Path) -> LoadedStudy:
    try:
        real = _file(path)
        document = read_yaml(real)
        spec = validated(document, StudySpec)
    except BadInput:
        raise
    except Exception as error:  # such as a date that is none: whatever it is, it is this file's and no other's
        raise BadInput(f"{path}: cannot be read as a study: {error or type(error).__name__}") from error
    check_names(document, spec)
    return LoadedStudy(path, Study(spec, str(real.parent)), document=document)


def _file(path: Path) -> Path:
    """The file itself, links followed."""
    if shown(str(path)) != str(path):
        raise BadInput(f"{path}: is no name in UTF-8; rename the file")
    real = path.resolve()
    if path.is_symlink() and not real.exists():
        raise BadInput(f"{real}: there is no such file, but {path} points to it; restore the file or remove the link")
    if real.exists() and not real.is_file():
        raise BadInput(f"{real}: cannot be read: it is no file")  # reading a pipe would never end
    return real


def load_studies(directory: Path) -> list[LoadedStudy]:
    """Every study file of the directory; a bad one, or one that contradicts an earlier one, leaves the others
    working.
    """
    loaded: list[LoadedStudy] = []
    for path in sorted([*directory.glob("*.yaml"), *directory.glob("*.yml")]):
        try:
            found = _read(path)
            _check_conflicts(found, loaded)
            loaded.append(found)
        except BadInput as error:
            loaded.append(LoadedStudy(path, error=shown(str(error))))
    return loaded


def declared_models(directory: Path) -> list[ModelSpec]:
    """The models of all studies that can be read."""
    studies = [loaded.study for loaded in load_studies(directory) if loaded.study]
    return [part for study in studies for label, part in study_parts(study) if label in ("model", "query_model")]


def registered_study(name: str, directory: Path) -> Study:
    """The study of this name. Raises BadInput where no file of the directory declares it, or its file has a mistake."""
    loaded = load_studies(directory)
    known = {each.study.name: each.study for each in loaded if each.study}
    if name not in known:
        for each in loaded:
            if each.error and each.path.stem == name:
                raise BadInput(each.error)
        near = near_matches(name, known, "studies")
        raise BadInput(f"study {name}: no study file in {directory} declares it; {near}")
    return known[name]


def compared_studies(study: Study, directory: Path) -> list[Study]:
    """The studies that `findings.compare` names. Raises BadInput for a name that no study file here has."""
    wanted = study.spec.findings.compare
    known = {each.study.name: each.study for each in load_studies(directory) if each.study} if wanted else {}
    for name in wanted:
        if name not in known:
            raise BadInput(
                f"study {study.name}: findings.compare names {name}, and no study file in {directory} declares it; "
                "correct the name, or put the file there"
            )
    return [known[name] for name in wanted]


def _register(loaded: LoadedStudy, directory: Path) -> None:
    """Links a study file from elsewhere into the studies directory, under the study's name."""
    real, name = loaded.file, loaded.study.name
    if loaded.path.parent.resolve() == directory.resolve():
        return
    directory.mkdir(parents=True, exist_ok=True)
    link = directory / f"{name}.yaml"
    if link.is_symlink() and not link.exists():
        link.unlink(missing_ok=True)  # the file that it pointed to is gone
    try:
        link.symlink_to(real)
    except FileExistsError as error:
        if link.resolve() != real:
            raise BadInput(_name_is_taken(loaded, str(link.resolve()))) from error


def _check_conflicts(loaded: LoadedStudy, others: Iterable[LoadedStudy]) -> None:
    for other in others:
        if other.study is None:
            continue
        if other.study.name == loaded.study.name:
            raise BadInput(_name_is_taken(loaded, _line(other, ("study",))))
        if dagster_name(other.study.name) == dagster_name(loaded.study.name):
            raise BadInput(_one_to_dagster(loaded, ("study",), loaded.study.name, other, ("study",), other.study.name))
        if conflict := _conflict(loaded, other):
            raise BadInput(conflict)
        if conflict := _compared_in_vain(loaded, other) or _compared_in_vain(other, loaded):
            raise BadInput(conflict)
    if conflict := _conflict(loaded, loaded):  # a model and a query_model of one name
        raise BadInput(conflict)
    if loaded.study.name in loaded.study.spec.findings.compare:
        place = loaded.document.place(("findings", "compare"))
        raise BadInput(f"{place}: names the study itself; name others whose scores its own are compared with")


def _name_is_taken(loaded: LoadedStudy, by: str) -> str:
    place = loaded.document.place(("study",))
    return f"{place}: {loaded.study.name} is already declared by {by}; give one of them another name"


def _conflict(loaded: LoadedStudy, other: LoadedStudy) -> str | None:
    """The first part that both name alike but declare differently: it would be two things under one key."""
    for label, mine in study_parts(loaded.study):
        for their_label, theirs in study_parts(other.study):
            if type(mine) is not type(theirs) or dagster_name(mine.name) != dagster_name(theirs.name):
                continue
            if mine.name != theirs.name:
                return _one_to_dagster(loaded, (label, "name"), mine.name, other, (their_label, "name"), theirs.name)
            if inner := _difference(mine, loaded.study.base, theirs, other.study.base):
                here, there = (label, *inner), (their_label, *inner)
                is_so = _value(mine, inner, loaded.study.base)
                otherwise = _value(theirs, inner, other.study.base)
                return _told(loaded, here, f"{label} {mine.name}", is_so, other, there, otherwise)
    return _fit_conflict(loaded, other)


def _compared_in_vain(loaded: LoadedStudy, other: LoadedStudy) -> str | None:
    """Scores are compared document by document: of one corpus, or of two that differ by name alone."""
    own, theirs = loaded.study.spec.corpus, other.study.spec.corpus
    if other.study.name not in loaded.study.spec.findings.compare:
        return None
    inner = _difference(own.model_copy(update={"name": theirs.name}), loaded.study.base, theirs, other.study.base)
    if not inner:
        return None
    return (
        f"{loaded.document.place(('findings', 'compare'))}: names study {other.study.name}, whose corpus {theirs.name} "
        f"({_line(other, ('corpus', *inner))}) differs from {own.name} in {'.'.join(map(str, inner))}; only studies of "
        "the same documents can be compared"
    )


def _told(
    loaded: LoadedStudy, here: Location, part: str, is_so: str, other: LoadedStudy, there: Location, otherwise: str
) -> str:
    return (
        f"{loaded.document.place(here)}: is {is_so} for {part}, and {otherwise} in {_line(other, there)}; "
        "declare it alike, or give one of them another name"
    )


def _one_to_dagster(
    loaded: LoadedStudy, here: Location, name: str, other: LoadedStudy, there: Location, their_name: str
) -> str:
    return (
        f"{loaded.document.place(here)}: {name} and {their_name} in {_line(other, there)} are one name to Dagster, "
        "which knows no dash; write both alike, or give one of them another name"
    )


def _line(loaded: LoadedStudy, location: Location) -> str:
    return f"{loaded.document.path}:{loaded.document.line(location)}"


def study_parts(study: Study) -> Iterator[tuple[str, BaseModel]]:
    """What studies share by name; a query-side checkpoint is a model like any other."""
    for label in ("corpus", "model", "query_model", "curvature", "queries"):
        if part := getattr(study.spec, label):
            yield label, part


def _difference(mine: BaseModel, base: str, theirs: BaseModel, their_base: str) -> Location:
    """Where the first field is that differs; paths are compared as what they lead to. Empty where all are alike."""
    for field in type(mine).model_fields:
        one, another = getattr(mine, field), getattr(theirs, field)
        if field != "path" and one != another:
            both = isinstance(one, BaseModel) and isinstance(another, BaseModel)
            return (field, *_difference(one, base, another, their_base)) if both else (field,)
    return ("path",) if _paths(mine, base) != _paths(theirs, their_base) else ()


def _value(part: BaseModel, location: Location, base: str) -> str:
    """A field's value in a sentence, a path as what it leads to."""
    value: Any = part
    for field in location:
        value = getattr(value, str(field))
    if location == ("path",) and value:
        return ", ".join(_paths(part, base))
    return "declared" if isinstance(value, BaseModel) else "left out" if value is None else shown_value(value)


def _fit_conflict(loaded: LoadedStudy, other: LoadedStudy) -> str | None:
    """A fit belongs to one model and one corpus; a corpus cut by a model's tokenizer to that model."""
    mine, theirs = loaded.study.spec, other.study.spec
    for shared, part, bound, why in (
        ("curvature", "model", True, "is fitted on one model"),
        ("curvature", "corpus", True, "is fitted on one corpus"),
        ("model", "corpus", bool(mine.model.train), "is trained on one corpus"),
        ("corpus", "model", bool(mine.corpus.tokenizer.checkpoint), "is cut with the tokenizer of one model"),
    ):
        name, here, there = getattr(mine, shared).name, getattr(mine, part).name, getattr(theirs, part).name
        if bound and name == getattr(theirs, shared).name and here != there:
            place, other_place = loaded.document.place((part, "name")), _line(other, (part, "name"))
            return (
                f"{place}: is {here}, and {there} in {other_place}, but "
                f"{shared} {name} {why}; give {shared} {name} another name in one of them"
            )
    return None


def _paths(part: BaseModel, base: str) -> list[str]:
    paths = getattr(part, "path", None) or ()
    return [os.path.normpath(Path(base) / path) for path in ((paths,) if isinstance(paths, str) else paths)]
