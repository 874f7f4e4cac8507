"""What a page shows, as a file to take away."""

from __future__ import annotations

import io
import re
from dataclasses import dataclass

import polars as pl
from starlette.responses import Response

from compute.errors import BadInput
from orchestration.results.printing import write_rows


@dataclass(frozen=True)
class File:
    """Content, its kind for the browser, and the name under which it is saved."""

    content: bytes
    kind: str
    name: str

    def response(self) -> Response:
        disposition = f'attachment; filename="{self.name}"'
        return Response(self.content, media_type=self.kind, headers={"Content-Disposition": disposition})


def as_file(frame: pl.DataFrame, form: str, *names: str) -> File:
    """`names` make the file's name. Raises BadInput for a form other than csv and parquet."""
    if form not in ("csv", "parquet"):
        raise BadInput(f"there is no form {form}; choose csv or parquet")
    content = io.BytesIO()
    write_rows(frame, content, form)
    kind = "text/csv; charset=utf-8" if form == "csv" else "application/vnd.apache.parquet"
    name = re.sub("[^A-Za-z0-9_-]", "-", "-".join(names))[:120]
    return File(content.getvalue(), kind, f"{name}.{form}")
