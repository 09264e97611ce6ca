"""What `recsys candidates` tells of lists that are published, and how it goes back."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from recsys.candidates.data_contract import Finding
from recsys.candidates.files import JobError
from recsys.candidates.job import JOB
from recsys.candidates.manifest import Manifest
from recsys.candidates.publication import Publications, rollback

_STYLE = {"ok": "green", "warn": "yellow", "refuse": "red"}


def print_status(out: Path, as_json: bool) -> None:
    """Prints the jobs of an output, which of them is read, and what was moved.

    Raises:
        JobError: there is no such folder, or the pointer cannot be read.
    """
    if not out.is_dir():
        raise JobError(f"{out}: no such folder")
    found = Publications.read(out)
    jobs = [_job(path.parent, found) for path in sorted(out.glob(f"*/{JOB}"))]
    if as_json:
        events = [vars(event) for event in found.events]
        print(json.dumps({"current": found.current, "before": found.before, "jobs": jobs, "events": events}, indent=2))
        return
    shown = Table("job", "state", "users", "rows", "model")
    for job in jobs:
        numbers = ["" if job[name] is None else f"{job[name]:,}" for name in ("users", "rows")]
        shown.add_row(escape(job["name"]), job["state"], *numbers, escape(job["model_version"] or ""))
    console = Console()
    console.print(shown)
    for event in found.events:
        instead = "" if event.instead_of is None else f", instead of {event.instead_of}"
        console.print(f"{event.at} {event.what} {event.name}{instead}", markup=False, highlight=False)


def go_back(out: Path) -> None:
    """Makes what was published before the current lists the ones to read.

    Raises:
        JobError: there is nothing to go back to.
    """
    print(f"{rollback(out)} is published again in {out}")


def findings_table(findings: Sequence[Finding]) -> Table:
    """What the rules of the contract found, for people; rules that found nothing are counted."""
    shown = Table("rule", "", "found", title="before publication", title_justify="left", title_style="")
    for finding in findings:
        if finding.level != "ok":
            shown.add_row(
                escape(finding.name), f"[{_STYLE[finding.level]}]{finding.level}[/]", escape(finding.sentence)
            )
    held = sum(finding.level == "ok" for finding in findings)
    shown.add_row(f"{held} {'others' if held < len(findings) else 'rules'}", f"[{_STYLE['ok']}]ok[/]", "")
    return shown


def _job(folder: Path, found: Publications) -> dict[str, Any]:
    try:
        manifest = Manifest.read(folder)
    except JobError:
        facts: dict[str, Any] = {"state": "not complete", "users": None, "rows": None, "model_version": None}
    else:
        facts = {name: getattr(manifest, name) for name in ("users", "rows", "model_version")}
        facts["state"] = "complete"
        if folder.name == found.current:
            facts["state"] = "published"
        elif folder.name in found.before:
            facts["state"] = "published before"
    return {"name": folder.name} | facts
