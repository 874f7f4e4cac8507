"""The explorer as a browser asks it, without a server; and lakes that are changed for it."""

from __future__ import annotations

import html
import re
from collections.abc import Callable
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import polars as pl
from starlette.testclient import TestClient

from assets.lake.lake import Lake
from assets.lake.stored import stored_table
from orchestration.explorer.app import explorer
from orchestration.results import Results


def explore(lake: Lake, cache: Path) -> TestClient:
    return TestClient(explorer(Results(lake), cache), base_url="http://127.0.0.1:8265")


def rewrite(lake: Lake, path: str, change: Callable[[pl.DataFrame], pl.DataFrame]) -> None:
    """The rows of a table without partitions, changed."""
    table = stored_table(lake.place, path)
    frame = change(lake.scan(table, allow_empty=True).collect())
    commit = {**lake.last_commit(table), "fingerprint": "0" * 16}
    lake.overwrite(table, frame.to_arrow().cast(table.schema), commit={k: str(v) for k, v in commit.items()})


def text_of(page: str) -> str:
    return " ".join(html.unescape(re.sub("<[^>]+>", " ", page)).split())


def links(page: str, to: str) -> list[str]:
    """The addresses that a page links to, below one path."""
    return [html.unescape(each) for each in re.findall(f'href="(/{to}[?][^"]*)"', page)]


def ranked_here(page: str, study: str = "tiny", method: str = "ekfac") -> list[str]:
    """The documents of one ranking on a page, near-duplicates included."""
    found = re.findall(rf'href="(/query[?][^"]*)" data-swap="{study} {method} [0-9]+"', page)
    return [parse_qs(urlsplit(html.unescape(each)).query)["document"][0] for each in found]
