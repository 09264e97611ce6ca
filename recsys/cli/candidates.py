"""Makes ranked lists for all users: the nightly candidate job.

`recsys candidates RUN --log LOG --out OUT` asks the model of a run, of a model folder, or `models:/NAME@champion`, and
writes `OUT/<name>/part-*.parquet`. Ended by whatever, the same command goes on where it was. `--publish` makes complete
lists the ones to read, `--rollback` goes back to those before, `--status` tells what is read.
"""

from __future__ import annotations

import json
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import fields
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jsonargparse import ArgumentParser
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from recsys.candidates.config import Cold, JobConfig
from recsys.candidates.data_contract import DataContract, Finding
from recsys.candidates.engine import Engine
from recsys.candidates.publishing import check_and_publish, published_before
from recsys.candidates.sources import Source
from recsys.cli.progress import user_progress
from recsys.cli.published import findings_table, go_back, print_status
from recsys.retrieval.merging import Order

if TYPE_CHECKING:
    from recsys.candidates.run import Outcome

_OF_JOB = tuple(field.name for field in fields(JobConfig) if field.name != "filter_seen")
_LISTS = ("allow", "deny", "sources")


def parser() -> ArgumentParser:
    """The arguments of the command."""
    arguments = ArgumentParser(
        "recsys candidates", description=__doc__, default_env=True, env_prefix="RECSYS_CANDIDATES"
    )
    add = arguments.add_argument
    add("--config", action="config", help="YAML file with these arguments")
    add("model", type=str | None, nargs="?", help="folder of a run or of a model, or models:/NAME@champion")
    add("--log", type=str | None, help="a prepared log, or Parquet or CSV in the schema of the model")
    add("--out", type=str | None, help="folder of all jobs")
    add("--name", type=str | None, help="of this one; default: the date, in UTC")
    add("--users", type=str | None, help="who gets a list: Parquet or CSV with `user_id` (and `query`), or @FILE")
    add("--k", type=int, default=100, help="items of each user")
    add("--seen", action="store_true", help="recommend seen items too")
    add("--allow", type=str, nargs="+", help="only these items; @FILE has one a line")
    add("--deny", type=str, nargs="+", help="none of these items")
    add("--user_allow", type=str | None, help="Parquet with `user_id` and `item_id`: the only items of each user")
    add("--user_deny", type=str | None, help="likewise, items that a user may not get")
    add("--cold", type=Cold, default="popularity", help="what users get of whom nothing is known")
    add("--min_score", type=float | None, help="least score of an item in a list")
    add("--cap", type=int | None, help="most items of a category in a list")
    add("--cap_by", type=str | None, help="the feature of items that is their category")
    add("--sources", type=list[Source], default=[], help="of candidates, first things first; default: the model")
    add("--order", type=Order | None, help="of several sources; default: source by source")
    add("--rank", action="store_true", help="let the ranking head of the model order what was retrieved")
    add("--retrieve", type=int, default=0, help="items that each source gives to choose from; 0: as many as needed")
    add("--users_per_part", type=int, default=JobConfig.users_per_part, help="users of each part")
    add("--batch_users", type=int, default=JobConfig.batch_users, help="users who are asked for at a time")
    add("--batch_events", type=int, default=JobConfig.batch_events, help="events that are read at a time")
    add("--device", type=str, default="cpu", help="of the models")
    add("--threads", type=int, default=0, help="that share a part; 0: one a core, or OMP_NUM_THREADS")
    add("--memory_gib", type=float, default=JobConfig.memory_gib, help="of each process that makes parts")
    add("--cache", type=str | None, help="where raw logs are prepared; default: in the job, until it is complete")
    add("--engine", type=Engine | None, help="what makes the parts; default: this process")
    add("--previous", type=str | None, help="a complete job: users for whom nothing has changed keep its lists")
    add("--incremental", action="store_true", help="the same, of what is published")
    add("--publish", action="store_true", help="check complete lists, and make them the ones to read")
    add("--contract", type=str | None, help="what lists must hold to be published (YAML); default: --print_contract")
    add("--keep", type=int | None, help="published jobs to keep; 1 leaves none for --rollback; default: all")
    add("--rollback", action="store_true", help="go back to what was published before")
    add("--status", action="store_true", help="print the jobs of --out, and which is published")
    add("--print_contract", action="store_true", help="print the default contract, as a file to change")
    add("--track", action="store_true", help="tell MLflow what was done")
    add("--json", action="store_true", help="print JSON")
    return arguments


def main(argv: list[str] | None = None) -> int:
    """Runs the command.

    Args:
        argv: its arguments; None reads the command line.

    Returns:
        The exit code.

    Raises:
        JobError: the job cannot be begun or ended; the message says what to do.
        DataError: the log cannot be used.
    """
    arguments = parser()
    given = arguments.parse_args(argv)
    if given.print_contract:
        sys.stdout.write(DataContract().text())
        return 0
    if given.out is None:
        arguments.error("name the folder of all jobs with --out")
    if given.status:
        print_status(Path(given.out), given.json)
        return 0
    if given.rollback:
        go_back(Path(given.out))
        return 0
    if given.keep is not None and given.keep < 1:
        arguments.error(f"--keep {given.keep}: the published job at least must be kept")
    if not given.publish and (given.keep is not None or given.contract is not None):
        arguments.error("--keep and --contract say how lists are published: add --publish, or leave them out")
    if given.incremental and given.previous is not None:
        arguments.error("--incremental follows what is published, --previous another job: give one of them")
    if given.model is None or given.log is None:
        arguments.error("name a model and its --log")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # newer versions prefer a method that older ones lack
        made = arguments.instantiate_classes(given).as_dict()
    config = config_of(made)
    from recsys.candidates.run import run_job

    contract = DataContract() if made["contract"] is None else DataContract.read(made["contract"])
    findings: list[Finding] = []

    def publish(folder: Path) -> None:
        findings.extend(check_and_publish(folder, contract, made["keep"]))

    try:
        with said_plainly(), user_progress() as progress:
            outcome = run_job(config, made["engine"], progress=progress, check=publish if made["publish"] else None)
    except KeyboardInterrupt:
        print(
            f"\nrecsys candidates: finished parts are kept in {Path(config.out) / config.name}; the same command with "
            f"--name {config.name} goes on",
            file=sys.stderr,
        )
        raise
    if made["track"]:
        from recsys.candidates.track import track

        with said_plainly():
            track(outcome)
    if made["json"]:
        print(json.dumps(summary(outcome) | {"findings": [finding._asdict() for finding in findings]}, indent=2))
        return 0
    console = Console()
    console.print(table(outcome))
    if made["publish"]:
        console.print(findings_table(findings) if findings else f"{config.name} is published already")
    return 0


def config_of(given: dict[str, Any]) -> JobConfig:
    """The job that arguments describe.

    Raises:
        JobError: a value is out of range, or does not fit another.
    """
    found = {name: given[name] for name in _OF_JOB}
    found |= {name: None if found[name] is None else tuple(found[name]) for name in _LISTS}
    found["name"] = found["name"] or datetime.now(UTC).date().isoformat()
    if given["incremental"]:
        found["previous"] = published_before(Path(given["out"]), found["name"])
    return JobConfig(**found, filter_seen=not given["seen"])


def summary(outcome: Outcome) -> dict[str, Any]:
    """What happened, as plain values."""
    manifest = outcome.manifest
    return {
        "folder": str(outcome.folder),
        "name": manifest.name,
        "generated_at": manifest.generated_at,
        "model_version": manifest.model_version,
        "users": manifest.users,
        "rows": manifest.rows,
        "parts": manifest.parts,
        "parts_made": outcome.made,
        "seconds": round(outcome.seconds, 1),
        "counts": {name: count for name, count in manifest.counts.items() if count},
        "measured": manifest.measured,
    }


def table(outcome: Outcome) -> Table:
    """What happened and where it is, for people."""
    found = summary(outcome)
    shown = Table("lists", "", title=escape(found["folder"]), title_justify="left", title_style="")
    shown.columns[1].justify = "right"
    made = f"{found['parts_made']:,} of {found['parts']:,}, in {found['seconds']:,} s"
    rows = {"users": found["users"], "rows": found["rows"], "parts made now": made, "model": found["model_version"]}
    for name, value in (rows | found["counts"] | found["measured"]).items():
        shown.add_row(escape(name.replace("_", " ")), f"{value:,}" if isinstance(value, int) else escape(str(value)))
    return shown


@contextmanager
def said_plainly() -> Iterator[None]:
    """Warnings that are meant for people, without the line of code that gives them."""
    before = warnings.showwarning

    def show(message: Warning | str, category: type[Warning], filename: str, *others: Any) -> None:
        if category is UserWarning:
            print(f"recsys candidates: {message}", file=sys.stderr)
        else:
            before(message, category, filename, *others)

    warnings.showwarning = show  # type: ignore[assignment]
    try:
        yield
    finally:
        warnings.showwarning = before
