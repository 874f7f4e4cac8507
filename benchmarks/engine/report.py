"""What a comparison leaves behind: a page of tables, and everything that was measured as JSON beside it."""

from __future__ import annotations

import json
import os
import platform
from dataclasses import asdict
from pathlib import Path
from statistics import median

from benchmarks.engine.comparison import HALF, Comparison
from benchmarks.engine.figures import FLOOR, YARDSTICK, Figures
from benchmarks.engine.targets import targets

TIMES = {"wall": "time on the wall's clock", "processor": "processor time of the contender's own process"}


def hardware() -> dict[str, str | int]:
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    flags = " ".join(line for line in lines if line.startswith("flags")).split()
    units = [unit for unit in ("avx512f", "avx512_bf16", "amx_bf16") if unit in flags]
    return {
        "processor": names[0] if names else platform.machine(),
        "cores": os.cpu_count() or 0,
        "units": " ".join(units),
    }


def as_json(comparison: Comparison, facts: dict) -> str:
    measured = {
        "rank": comparison.rank,
        "agreements": {name: found.as_dict() for name, found in comparison.agreements.items()},
        "runs": comparison.runs,
        "left_out": comparison.left_out,
        "versions": comparison.versions,
        "targets": [asdict(target) for target in targets(Figures(comparison, facts["clock"]))],
    }
    return json.dumps(facts | {"setting": comparison.setting.as_dict()} | measured, indent=1, ensure_ascii=False) + "\n"


def as_markdown(comparison: Comparison, facts: dict) -> str:
    figures = Figures(comparison, facts["clock"])
    sections = [_heading(comparison, facts), _targets(figures), _same_precision(figures), _best(figures)]
    return "\n\n".join([*sections, _agreements(comparison), _left_out(comparison)]).rstrip() + "\n"


def _heading(comparison: Comparison, facts: dict) -> str:
    named = comparison.setting.as_dict() | {"our_batch": comparison.setting.our_documents}
    setting = ", ".join(f"{name} {value}" for name, value in named.items())
    versions = "; ".join(
        f"{name}: " + ", ".join(f"{library} {number}" for library, number in libraries.items())
        for name, libraries in comparison.versions.items()
    )
    training, hardware_found = (
        facts["training"],
        ", ".join(f"{name} {value}" for name, value in facts["hardware"].items()),
    )
    return (
        f"# The engine at width {comparison.setting.width}, {facts['date']}\n\n"
        f"Hardware: {hardware_found}; load {facts['load_before']:.1f} before, {facts['load_after']:.1f} after.\n"
        f"Versions: {versions}.\nSetting: {setting}; MLP modules, sampled labels, damping 0.1 · mean(Λ).\n"
        f"The model was trained on the documents for {training['steps']} steps, to "
        f"{training['nats_per_token']:.2f} nats a token (untrained: {training['before']:.2f}).\n\n"
        f"Medians of {facts['repetitions']} alternating repetitions of {TIMES[facts['clock']]}; multiples are taken "
        "within a repetition, those of what ran once by the median of the other. Yardstick: a training pass (forward, "
        "full backward, no optimizer) in padded batches of "
        f"{comparison.setting.batch}. Floor: forward and activation backward."
        + (" Factors were fitted once, before the repetitions." if facts["factors_once"] else "")
    )


def _targets(figures: Figures) -> str:
    lines = ["## Targets", "", "| what | measured | must | met | stretch | met |", "|---|---|---|---|---|---|"]
    for target in targets(figures):
        cells = [target.what, target.measured, target.must, _met(target.met), target.stretch, _met(target.stretched)]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def _same_precision(figures: Figures) -> str:
    rows = [row for row in figures.comparison.runs if HALF not in row]
    return "## Everyone in float32\n\n" + _table(figures, rows)


def _best(figures: Figures) -> str:
    """A contender's bfloat16 beside its float32, both against the float32 training pass."""
    halves = [row for row in figures.comparison.runs if row.endswith(f" in {HALF}")]
    rows = [row for half in halves for row in (half.removesuffix(f" in {HALF}"), half)]
    return "## Each in its best precision\n\n" + _table(figures, rows)


def _table(figures: Figures, rows: list[str]) -> str:
    lines = [
        "| | seconds | training passes | least – most | floors | peak MiB | added MiB | parts, seconds |",
        "|---|---:|---:|---:|---:|---:|---:|---|",
    ]
    for row in rows:
        ratios, parts = figures.ratios(row, YARDSTICK), figures.parts(row)
        named = ", ".join(f"{name} {seconds:.2f}" for name, seconds in parts.items()) if len(parts) > 1 else ""
        cells = [
            row,
            f"{median(figures.seconds(row)):.2f}",
            f"{median(ratios):.2f}",
            "one run" if figures.is_once(row) else f"{min(ratios):.2f} – {max(ratios):.2f}",
            f"{figures.ratio(row, FLOOR):.2f}",
            f"{figures.mib(row, 'peak_mib'):.0f}",
            f"{figures.mib(row):.0f}",
            named,
        ]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def _agreements(comparison: Comparison) -> str:
    lines = [
        "## Agreement over the documents, query by query",
        "",
        "| | Pearson, mean | worst | Spearman, mean | worst | top-list overlap, mean | worst |",
        "|---|---:|---:|---:|---:|---:|---:|",
    ]
    for name, found in comparison.agreements.items():
        lines.append(
            f"| {name} | {found.pearson_mean:.4f} | {found.pearson_worst:.4f} | {found.spearman_mean:.4f} | "
            f"{found.spearman_worst:.4f} | {found.overlap_mean:.1f} of {found.listed} | {found.overlap_worst} |"
        )
    return "\n".join(lines)


def _left_out(comparison: Comparison) -> str:
    if not comparison.left_out:
        return ""
    return "Left out:\n\n" + "\n".join(f"- {name}: {reason}" for name, reason in comparison.left_out.items())


def _met(met: bool | None) -> str:
    return {True: "yes", False: "**no**", None: "–"}[met]
