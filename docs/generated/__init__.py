"""Pages of the reference, written from the code whenever the site is built: path in the site -> Markdown."""

from __future__ import annotations

from collections.abc import Iterator


def pages() -> Iterator[tuple[str, str]]:
    from docs.generated.commands import commands_page
    from docs.generated.environment import environment_page
    from docs.generated.study_file import study_file_page
    from docs.generated.tables import table_pages

    yield "reference/study-file.md", study_file_page()
    yield "reference/commands.md", commands_page()
    yield "reference/environment.md", environment_page()
    yield from table_pages()
