"""Time, memory and agreement of Headwater and kronfluence 1.0.1, as multiples of a plain training pass.

    python benchmarks/compare_kronfluence.py --width 256 --documents 200 --tokens 256 --queries 32 --repetitions 3

One process times all contenders in alternating repetitions; one process each measures their peak memory. Writes
benchmarks/results/<date>-compare.json and .md with the hardware, the versions and the setting.
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
import warnings
from dataclasses import asdict, fields
from importlib.metadata import version
from pathlib import Path

warnings.filterwarnings("ignore", category=FutureWarning)

from contenders import ROOT, VARIANTS, Contenders, Setting  # noqa: E402

from tests.compute.peer import pearson  # noqa: E402

RESULTS = Path(__file__).resolve().parent / "results"
BASE = "training pass"


def main() -> None:
    arguments = _arguments()
    setting = Setting(**{field.name: getattr(arguments, field.name) for field in fields(Setting)})
    with tempfile.TemporaryDirectory() as directory:
        directory = arguments.directory or Path(directory)
        if arguments.memory_of:
            print(json.dumps(measure_memory(setting, directory, arguments.memory_of)))
            return
        report = compare(setting, directory, arguments.repetitions)
    write(report)


def compare(setting: Setting, directory: Path, repetitions: int) -> dict:
    log(f"{setting}")
    contenders = Contenders(setting, directory)
    log("warming up: every contender once on a small part of the documents")
    warm_up(setting, directory)
    seconds = measure_time(contenders, repetitions)
    contenders.save()
    memory = {name: memory_in_own_process(setting, directory, name) for name in contenders.all if measured(name)}
    return {
        "date": datetime.date.today().isoformat(),
        "hardware": hardware(setting),
        "versions": {name: version(name) for name in ("torch", "transformers", "kronfluence")},
        "setting": asdict(setting) | {"repetitions": repetitions, "labels": "sampled", "modules": "mlp"},
        "seconds": seconds,
        "memory": memory,
        "agreement": agreement(setting, directory),
    }


def measured(name: str) -> bool:
    """Whether memory is: Headwater's query gradients alone are not, since its scoring begins with them there."""
    return not name.startswith("headwater query gradients")


def warm_up(setting: Setting, directory: Path) -> None:
    small = Setting(**(asdict(setting) | {"documents": setting.batch, "queries": min(2, setting.queries)}))
    for contender in Contenders(small, directory).all.values():
        contender()


def measure_time(contenders: Contenders, repetitions: int) -> dict[str, list[float]]:
    seconds: dict[str, list[float]] = {name: [] for name in contenders.all}
    for repetition in range(repetitions):
        for name, contender in contenders.all.items():
            start = time.perf_counter()
            contender()
            seconds[name].append(time.perf_counter() - start)
            log(f"repetition {repetition + 1} of {repetitions}: {name} {seconds[name][-1]:.2f} s")
    return seconds


def memory_in_own_process(setting: Setting, directory: Path, name: str) -> dict[str, float]:
    options = [f"--{key}={value}" for key, value in asdict(setting).items()]
    command = [sys.executable, __file__, *options, f"--directory={directory}", f"--memory-of={name}"]
    output = subprocess.run(command, check=True, capture_output=True, text=True, cwd=ROOT).stdout
    memory = json.loads(output.splitlines()[-1])
    log(f"memory of {name}: peak {memory['peak_mib']:.0f} MiB, {memory['added_mib']:.0f} of them its own")
    return memory


def measure_memory(setting: Setting, directory: Path, name: str) -> dict[str, float]:
    """The high-water mark of resident memory during one call, and how far it stands above what was there before."""
    contenders = Contenders(setting, directory)
    if name.startswith("headwater"):
        contenders.load()
    elif name.startswith("kronfluence"):
        contenders.peer  # noqa: B018 (made here, so that its copy of the model counts as there before)
    contender = contenders.all[name]
    before = _resident("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")  # resets the high-water mark
    contender()
    peak = _resident("VmHWM")
    return {"peak_mib": peak, "added_mib": peak - before}


def agreement(setting: Setting, directory: Path) -> dict[str, dict[str, float]]:
    """Pearson per query, both tools fitted with the same labels: the data's."""
    log("agreement: both fitted once more with the data's labels")
    contenders = Contenders(setting, directory, labels="empirical")
    contenders.fit()
    ours = {name: contenders.headwater_scores(*VARIANTS[name]) for name in ("full rank", "rank 32")}
    theirs = {"full rank": contenders.kronfluence_scores(None), "rank 32": contenders.kronfluence_scores(32)}
    pairs = {
        "full rank, both": (ours["full rank"], theirs["full rank"]),
        "rank 32, both": (ours["rank 32"], theirs["rank 32"]),
        "headwater's rank 32 and its full rank": (ours["rank 32"], ours["full rank"]),
        "kronfluence's rank 32 and its full rank": (theirs["rank 32"], theirs["full rank"]),
    }
    correlations = {name: pearson(*pair) for name, pair in pairs.items()}
    return {name: {"mean": float(r.mean()), "worst": float(r.min())} for name, r in correlations.items()}


def rows(report: dict) -> list[tuple[str, float, float, float | None, float | None]]:
    """One row per contender: name, median seconds, multiple of a training pass, peak and added MiB; sums in between."""
    medians = {name: statistics.median(values) for name, values in report["seconds"].items()}
    sums = {
        f"**{tool} factors**": [f"{tool} {part}" for part in ("covariances", "decomposition", "eigenvalues")]
        for tool in ("headwater", "kronfluence")
    }
    for name in VARIANTS:
        sums[f"**headwater scoring, {name}**"] = [
            f"headwater query gradients, {name}", f"headwater scores and norms, {name}"
        ]  # fmt: skip
    found = []
    for name, seconds in medians.items():
        memory = report["memory"].get(name, {})
        found.append((name, seconds, seconds / medians[BASE], memory.get("peak_mib"), memory.get("added_mib")))
        for total, parts in sums.items():
            if parts[-1] == name:
                seconds = sum(medians[part] for part in parts)
                found.append((total, seconds, seconds / medians[BASE], None, None))
    return found


def markdown(report: dict) -> str:
    setting = ", ".join(f"{key} {value}" for key, value in report["setting"].items())
    versions = ", ".join(f"{name} {number}" for name, number in report["versions"].items())
    hardware = ", ".join(f"{key} {value}" for key, value in report["hardware"].items())
    lines = [
        f"# Headwater and kronfluence, {report['date']}",
        "",
        f"Hardware: {hardware}.",
        f"Versions: {versions}.",
        f"Setting: {setting}.",
        "",
        "Median seconds, as multiples of one plain training pass (forward and full backward); resident memory at its",
        "highest, and what the contender added to what was there before it began.",
        "",
        "| contender | seconds | training passes | peak MiB | added MiB |",
        "|---|---:|---:|---:|---:|",
    ]
    for name, seconds, multiple, peak, added in rows(report):
        memory = f"{peak:.0f} | {added:.0f}" if peak is not None else " | "
        lines.append(f"| {name} | {seconds:.2f} | {multiple:.2f} | {memory} |")
    lines += ["", "Pearson over documents, with the data's labels:", "", "| | mean | worst query |", "|---|---:|---:|"]
    for name, values in report["agreement"].items():
        lines.append(f"| {name} | {values['mean']:.6f} | {values['worst']:.6f} |")
    return "\n".join(lines) + "\n"


def write(report: dict) -> None:
    RESULTS.mkdir(exist_ok=True)
    stem = RESULTS / f"{report['date']}-compare"
    stem.with_suffix(".json").write_text(json.dumps(report, indent=2) + "\n")
    stem.with_suffix(".md").write_text(markdown(report))
    print(markdown(report))
    log(f"written to {stem}.md and .json")


def hardware(setting: Setting) -> dict[str, str | int]:
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return {
        "processor": names[0] if names else platform.machine(),
        "cores": os.cpu_count() or 0,
        "threads": setting.threads,
        "load before": f"{os.getloadavg()[0]:.1f}",
    }


def _resident(field: str) -> float:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(field):
            return int(line.split()[1]) / 1024
    raise RuntimeError(f"/proc/self/status has no {field}")


def log(message: str) -> None:
    print(message, file=sys.stderr, flush=True)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for field in fields(Setting):
        parser.add_argument(f"--{field.name}", type=int, default=None if field.name == "shortest" else field.default)
    parser.add_argument("--repetitions", type=int, default=3)
    parser.add_argument("--directory", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--memory-of", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.shortest is None:
        arguments.shortest = arguments.tokens
    return arguments


if __name__ == "__main__":
    main()
