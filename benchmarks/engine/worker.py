"""A contender's process: reads one request a line, runs that stage, and answers with its seconds and its memory.

    python -m benchmarks.engine.worker CONTENDER SETTING DIRECTORY

Before each stage, freed memory goes back to the system; `added_mib` is how far resident memory then rose above what was
there, the model and nothing else. Linux only.
"""

from __future__ import annotations

import ctypes
import gc
import json
import os
import sys
import traceback
from importlib import import_module
from importlib.metadata import version
from pathlib import Path

import numpy as np

from benchmarks.engine.contender import Contender
from benchmarks.engine.setting import Setting

CONTENDERS = {
    "plain": "benchmarks.engine.plain_passes:PlainPasses",
    "headwater": "benchmarks.engine.headwater:Headwater",
    "kronfluence": "benchmarks.engine.kronfluence_peer:Kronfluence",
    "bergson": "benchmarks.engine.bergson_peer:Bergson",
}
LIBRARIES = {"kronfluence": ["kronfluence"], "bergson": ["bergson"]}


def main(name: str, setting: str, directory: str) -> None:
    answers = os.fdopen(os.dup(sys.stdout.fileno()), "w", buffering=1)
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())  # what libraries print must not look like an answer
    module, _, kind = CONTENDERS[name].partition(":")
    contender = getattr(import_module(module), kind)(Setting(**json.loads(setting)), Path(directory))
    versions = {library: version(library) for library in ["torch", "transformers", *LIBRARIES.get(name, [])]}
    print(json.dumps({"versions": versions}), file=answers)
    for line in sys.stdin:
        try:
            answer = run_stage(contender, **json.loads(line))
        except Exception:
            answer = {"error": traceback.format_exc()}
        print(json.dumps(answer), file=answers)


def run_stage(contender: Contender, stage: str, arguments: dict, keep: str | None) -> dict:
    """Scores go to the file `keep` where it is given."""
    contender.model(arguments.get("precision", "float32"))
    contender.seconds = {}
    before = _settled_mib()
    scores_QD = getattr(contender, stage)(**arguments)
    peak = _status_mib("VmHWM")
    if keep and scores_QD is not None:
        np.save(keep, scores_QD.float().numpy())
    return {"seconds": contender.seconds, "peak_mib": peak, "added_mib": peak - before}


def _settled_mib() -> float:
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)
    Path("/proc/self/clear_refs").write_text("5")  # resets the high-water mark
    return _status_mib("VmRSS")


def _status_mib(field: str) -> float:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(field):
            return int(line.split()[1]) / 1024
    raise RuntimeError(f"/proc/self/status has no {field}")


if __name__ == "__main__":
    main(*sys.argv[1:])
