"""The site is built without a warning, and its pages ask no other host for anything."""

from __future__ import annotations

import html
import os
import re
import subprocess
import sys
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest

from tests.docs.blocks import PAGES, ROOT

FETCHED = re.compile(r'<(?:script|img|iframe|source)[^>]+src="([^"]+)"|<link[^>]+href="([^"]+)"')
LINK = re.compile(r"(?<!!)\[[^\]]*\]\(([^)\s]+)\)")


@pytest.fixture(scope="module")
def site(tmp_path_factory) -> Path:
    directory = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(directory)]
    environment = os.environ | {"NO_MKDOCS_2_WARNING": "1", "PYTHONPATH": str(ROOT)}
    result = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=240)
    assert result.returncode == 0, result.stdout + result.stderr
    return directory


def test_every_page_is_built_and_none_is_left_of_the_sources(site):
    built = {str(path.relative_to(site)) for path in site.rglob("*") if path.is_file()}
    for page in PAGES:
        if page.is_relative_to(ROOT / "docs"):
            assert str(page.relative_to(ROOT / "docs").with_suffix(".html")) in built
    assert {"reference/tables-findings.html", "reference/study-file.html", "reference/commands.html"} <= built
    assert not [path for path in built if path.endswith((".py", ".pyc", ".md"))]


def test_no_page_asks_another_host(site):
    pages = list(site.rglob("*.html"))
    assert len(pages) > 25
    for page in pages:
        for found in FETCHED.findall(page.read_text(encoding="utf-8")):
            address = urlsplit(html.unescape(found[0] or found[1]))
            assert not address.netloc, f"{page.name} fetches {address.geturl()}"
    for style in site.rglob("*.css"):
        assert not re.search(r"url\(\s*['\"]?https?:|@import\s+['\"]?https?:", style.read_text(encoding="utf-8")), style


def test_links_of_the_readme_lead_to_files_that_are_there():
    for page in (page for page in PAGES if not page.is_relative_to(ROOT / "docs")):
        links = [link for link in LINK.findall(page.read_text(encoding="utf-8")) if "://" not in link]
        for link in links:
            path, _, anchor = unquote(link).partition("#")
            target = page.parent / path if path else page
            assert target.exists(), f"{page.name} links to {link}"
            assert not anchor or anchor in anchors(target), f"{page.name} links to {link}"


def anchors(page: Path) -> set[str]:
    headings = re.findall(r"^#+ (.+)$", page.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).strip().replace(" ", "-") for heading in headings}


def test_paths_that_the_readme_names_are_there():
    named = re.findall(r"`((?:orchestration|assets|compute|tests|examples|benchmarks|docs)/[^`*<>]*)`", README)
    assert len(named) > 20
    assert [path for path in named if not (ROOT / path).exists()] == []


README = (ROOT / "README.md").read_text(encoding="utf-8")
