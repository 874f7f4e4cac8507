"""Which Chromium the tests drive, and how it is got: `python -m tests.ui.browser` installs one where none is there."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Sequence

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
FLAGS = (
    "--no-sandbox",  # Chromium refuses to start as root with one
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)
APT = (("apt-get", "update", "-qq"), ("apt-get", "install", "-y", "-qq", "--no-install-recommends", "chromium"))
PLAYWRIGHT = ((sys.executable, "-m", "playwright", "install", "chromium"),)


def installed() -> str | None:
    """The executable of a Chromium that is there: HEADWATER_CHROMIUM, the system's, or Playwright's."""
    if named := os.environ.get("HEADWATER_CHROMIUM"):
        return shutil.which(named)
    return next((path for path in map(shutil.which, NAMES) if path), None) or _playwrights()


def install() -> str | None:
    """One that is there, or Debian's package for root, or Playwright's own build, whichever can be had first."""
    for commands in (APT, PLAYWRIGHT):
        if found := installed():
            return found
        if commands is PLAYWRIGHT or (os.geteuid() == 0 and shutil.which("apt-get")):
            _run(commands)
    return installed()


def _run(commands: Sequence[Sequence[str]]) -> None:
    """One after the other; what they say goes to standard error, and a failure ends them."""
    for command in commands:
        if subprocess.run(
            command, env=os.environ | {"DEBIAN_FRONTEND": "noninteractive"}, stdout=sys.stderr
        ).returncode:
            return


def _playwrights() -> str | None:
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        return shutil.which(playwright.chromium.executable_path)


def main() -> int:
    found = install()
    if found is None:
        print(
            "make test-ui: there is no Chromium, and none can be installed here; install chromium or google-chrome, "
            "or name an executable by HEADWATER_CHROMIUM",
            file=sys.stderr,
        )
        return 1
    print(f"== browser: {found}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
