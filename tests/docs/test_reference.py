"""The reference has everything that the code declares: tables, columns, fields, commands, options, variables."""

from __future__ import annotations

import ast
import re

import pytest
import typer

from docs.generated import pages
from docs.generated.study_file import sections
from docs.generated.tables import described_tables
from orchestration.cli import app
from orchestration.home import Home
from orchestration.variables import VARIABLES
from tests.docs.blocks import ROOT

NOT_SETTINGS = {"HEADWATER_UI"}
"""Set by Headwater itself, to know its own processes."""


@pytest.fixture(scope="module")
def reference() -> dict[str, str]:
    return dict(pages())


def test_every_table_that_the_assets_declare_is_there_with_all_columns(reference):
    text = "\n".join(page for path, page in reference.items() if path.startswith("reference/tables-"))
    described = described_tables()
    declared = {name.removesuffix("_table") for name in declared_tables()}
    assert declared == {each.table.key[-1] for each in described} | {"training_sample"}
    for each in described:
        _, _, rest = text.partition(f"## {each.path.replace('<', '&lt;')} {{")
        section = rest.partition("\n## ")[0]
        assert each.table.grain[1:] in section
        for column in each.table.columns:
            assert f"| `{column.name}` |" in section


def declared_tables() -> set[str]:
    """Functions of `assets/` that return a table, by name."""
    return {
        node.name
        for path in (ROOT / "assets").rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.FunctionDef) and node.name.endswith("_table") and not node.name.startswith("_")
        if isinstance(node.returns, ast.Name) and node.returns.id == "Table" and node.name != "stored_table"
    }


def test_every_field_of_a_study_file_is_there_and_says_what_it_means(reference):
    page = reference["reference/study-file.md"]
    for section in sections():
        part = page.partition(f"## {section.path or 'The whole file'}\n")[2].partition("\n## ")[0]
        for name, field in section.model.model_fields.items():
            assert field.description, f"{section.path}.{name} has no description"
            assert f"\n| `{name}` | " in part, f"{section.path}.{name}"
    assert "λ as a multiple" in page and "| **required** |" in page and "| `0.1` |" in page


def test_every_command_and_option_is_there_with_its_examples(reference):
    page = reference["reference/commands.md"]
    for name, command in typer.main.get_command(app).commands.items():
        section = page.partition(f"\n## {name}\n")[2].partition("\n## ")[0]
        assert section, name
        for parameter in command.params:
            written = [f"`{each}`" for each in parameter.opts] if parameter.param_type_name == "option" else []
            assert all(each in section for each in written), f"{name} {parameter.opts}"
            assert parameter.param_type_name == "option" or parameter.help in section
        assert not command.epilog or f"```shell\nheadwater {name}" in section


def test_every_variable_that_the_code_speaks_of_is_there(reference, tmp_path, monkeypatch):
    names = {variable.name for variable in VARIABLES}
    sources = [path for floor in ("orchestration", "assets", "compute") for path in (ROOT / floor).rglob("*.py")]
    spoken_of = {name for path in sources for name in re.findall(r"\bHEADWATER_[A-Z_]+\b", path.read_text())}
    assert spoken_of == names | NOT_SETTINGS
    assert all(f"| `{name}` |" in reference["reference/environment.md"] for name in names)
    for name in names:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.chdir(tmp_path)
    home, defaults = Home.from_environment(), {variable.name: variable.default for variable in VARIABLES}
    assert home.root == tmp_path / defaults["HEADWATER_HOME"]
    assert home.lake == defaults["HEADWATER_LAKE"].replace("<home>", str(home.root))
    assert str(home.studies) == defaults["HEADWATER_STUDIES"].replace("<home>", str(home.root))
    assert str(home.cache) == defaults["HEADWATER_CACHE"].replace("<home>", str(home.root))
    assert str(home.retention_hours) == defaults["HEADWATER_RETENTION_HOURS"]
