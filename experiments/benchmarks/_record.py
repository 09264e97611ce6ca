"""Writes the JSON of a benchmark: ratios, the machine, versions and the command that made it."""

from __future__ import annotations

import json
import os
import platform
import sys
from collections.abc import Iterable
from importlib import metadata
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
RESULTS = ROOT / "experiments" / "results" / "benchmarks"
STACK = ("torch", "torchrec", "fbgemm-gpu-cpu", "lightning", "numpy", "pandas", "pyarrow", "duckdb")


def ratio(ours: float, theirs: float, unit: str, value: float | None = None) -> dict[str, float | str]:
    """One entry of `ratios`; `value` is `ours / theirs` unless given."""
    return {
        "value": round(ours / theirs if value is None else value, 4),
        "ours": round(ours, 4),
        "theirs": round(theirs, 4),
        "unit": unit,
    }


def record(name: str, ratios: dict[str, dict[str, float | str]], packages: Iterable[str] = (), **extra: Any) -> Path:
    """Writes `experiments/results/benchmarks/<name>.json` and returns its path.

    Args:
        name: of the benchmark.
        ratios: `{name: ratio(...)}`.
        packages: distributions whose versions are recorded beside those of the stack.
        extra: further keys, settings for instance.
    """
    content = {
        "ratios": ratios,
        "machine": machine(),
        "versions": versions((*STACK, *packages)),
        "command": command(),
        **extra,
    }
    RESULTS.mkdir(parents=True, exist_ok=True)
    path = RESULTS / f"{name}.json"
    temporary = path.with_suffix(".tmp")
    temporary.write_text(json.dumps(content, indent=2) + "\n")
    temporary.replace(path)
    return path


def machine() -> dict[str, str | int | float]:
    """Processor, cores and memory, without names or paths of the machine."""
    model = platform.processor() or platform.machine()
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        names = [line.split(":", 1)[1].strip() for line in cpuinfo.read_text().splitlines() if "model name" in line]
        model = names[0] if names else model
    return {
        "cpu": model,
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1,
        "memory_gib": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1),
        "system": f"{platform.system()} {platform.machine()}",
    }


def versions(packages: Iterable[str]) -> dict[str, str]:
    """Version of python and of each installed package."""
    found = {"python": platform.python_version()}
    for package in packages:
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return found


def command() -> str:
    """The command line, with the script's path relative to the repository."""
    script = Path(sys.argv[0]).resolve()
    name = script.relative_to(ROOT).as_posix() if script.is_relative_to(ROOT) else script.name
    return " ".join(("python", name, *sys.argv[1:]))
