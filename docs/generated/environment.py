"""reference/environment.md: the environment variables, from `orchestration/variables.py`."""

from __future__ import annotations

from docs.generated.markdown import code, grid, text
from orchestration.variables import VARIABLES

OPENING = """# Environment variables

They say where an installation keeps what it makes. None has to be set. `<home>` is what `HEADWATER_HOME` names; a
relative path starts from the directory in which the command is given.

"""


def environment_page() -> str:
    rows = [(code(each.name), each.meaning, _default(each.default)) for each in VARIABLES]
    return OPENING + grid(("variable", "meaning", "default"), rows)


def _default(default: str) -> str:
    return text(default) if " " in default else code(default)
