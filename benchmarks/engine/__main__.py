"""Time, memory and agreement of the engine and its peers: make bench, or python -m benchmarks.engine [--quick]."""

from __future__ import annotations

import argparse
import datetime
import os
from dataclasses import asdict, fields
from pathlib import Path

from benchmarks.engine.comparison import Comparison, Run, say
from benchmarks.engine.figures import YARDSTICK
from benchmarks.engine.processes import ROOT, installed
from benchmarks.engine.report import TIMES, as_json, as_markdown, hardware
from benchmarks.engine.setting import QUICK, Setting
from benchmarks.engine.trained import trained_model, training_of
from benchmarks.engine.worker import CONTENDERS

PEERS = [name for name in CONTENDERS if name not in ("plain", "headwater")]


def main(arguments: list[str] | None = None) -> Path:
    """Returns the page that was written; the same name with .json holds every figure."""
    options = _options(arguments)
    setting = Setting(**{field.name: getattr(options, field.name) for field in fields(Setting)})
    say(f"{setting}")
    directory = trained_model(setting, options.cache)
    peers = [name for name in options.peers if installed(name)]
    for name in set(options.peers) - set(peers):
        say(f"{name} is left out, since it is not installed: make bench does that")
    facts = {
        "date": datetime.date.today().isoformat(),
        "hardware": hardware(),
        "training": training_of(directory),
        "clock": options.clock,
        "load_before": os.getloadavg()[0],
        "factors_once": options.factors_once,
    }
    page = options.results / f"{facts['date']}-engine-width-{setting.width}.md"
    run = Run(setting, directory, ["plain", "headwater", *peers])
    try:
        steps = {"with_peers_agreement": not options.skip_peer_agreement, "factors_once": options.factors_once}
        for comparison in run.measure(options.repetitions, **steps):
            _write(page, comparison, facts)
    finally:
        run.close()
    print(page.read_text())
    return page


def _write(page: Path, comparison: Comparison, facts: dict) -> None:
    """After each repetition, so that a run that is stopped leaves those that it finished."""
    repetitions = len(comparison.runs[YARDSTICK])
    facts = facts | {"repetitions": repetitions, "load_after": os.getloadavg()[0]}
    page.parent.mkdir(parents=True, exist_ok=True)
    page.write_text(as_markdown(comparison, facts))
    page.with_suffix(".json").write_text(as_json(comparison, facts))


def _options(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="a tiny setting: whether the harness works, not how fast")
    parser.add_argument("--repetitions", type=int, help="of all rows in turn; 3, and 1 with --quick")
    parser.add_argument("--clock", choices=TIMES, default="wall", help="processor on a busy machine, with --threads 1")
    parser.add_argument("--peers", nargs="*", choices=PEERS, default=PEERS, help="all that are installed")
    parser.add_argument("--skip-peer-agreement", action="store_true", help="no fit of all tools with the data's labels")
    parser.add_argument("--factors-once", action="store_true", help="factors once, before the repetitions")
    parser.add_argument(
        "--cache", type=Path, default=ROOT / ".headwater" / "bench", help="where trained models are kept"
    )
    parser.add_argument("--results", type=Path, default=ROOT / "benchmarks" / "results", help="where the tables go")
    for field in fields(Setting):
        kind = int if field.default is None else type(field.default)
        parser.add_argument(f"--{field.name.replace('_', '-')}", type=kind)
    options = parser.parse_args(arguments)
    for name, value in asdict(QUICK if options.quick else Setting()).items():
        if getattr(options, name) is None:
            setattr(options, name, value)
    options.repetitions = options.repetitions or (1 if options.quick else 3)
    return options


if __name__ == "__main__":
    main()
