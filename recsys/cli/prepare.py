"""Checks an event log and turns it into the cached, memory-mapped form that training reads."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from pathlib import Path

from jsonargparse import ArgumentParser
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from recsys.features.datasets import Source, dataset_names, load_dataset
from recsys.features.event_log import EventLog
from recsys.features.prepare import DEFAULT_CACHE, prepare
from recsys.features.schema import Schema
from recsys.features.table_report import TableReport, as_records, table_reports

REPORT = "tables.json"


def parser() -> ArgumentParser:
    """The arguments of the command."""
    arguments = ArgumentParser("recsys prepare", description=__doc__, default_env=True, env_prefix="RECSYS_PREPARE")
    arguments.add_argument("--config", action="config", help="YAML file with these arguments")
    arguments.add_argument("--dataset", type=str | None, help=f"a data set by name: {', '.join(dataset_names())}")
    arguments.add_argument("--root", type=str | None, help="folder of local data sets (default: $RECSYS_DATA)")
    arguments.add_argument("--schema", type=str | None, help="schema of your own log (YAML)")
    arguments.add_argument("--events", type=list[str] | str | None, help="Parquet or CSV: file, files, folder or glob")
    arguments.add_argument("--items", type=list[str] | str | None, help="side table of the items")
    arguments.add_argument("--users", type=list[str] | str | None, help="side table of the users")
    arguments.add_argument("--cache", type=str, default=str(DEFAULT_CACHE), help="where logs are kept ($RECSYS_CACHE)")
    arguments.add_argument("--memory_limit", type=str, default="1GB", help="what sorting may hold before it spills")
    arguments.add_argument("--width", type=int, default=64, help="dimension of tables without `dim`, for their memory")
    return arguments


def main(argv: list[str] | None = None) -> int:
    """Runs the command.

    Args:
        argv: its arguments; None reads the command line.

    Returns:
        The exit code.

    Raises:
        DataError: the data cannot be used; the message says where and what to do.
    """
    arguments = parser()
    given = arguments.parse_args(argv).as_dict()
    tables = [given[role] for role in ("events", "items", "users")]
    if (given["dataset"] is None) == (given["schema"] is None):
        arguments.error("give either --dataset, or --schema with --events")
    if given["dataset"] is not None:
        if any(tables):
            arguments.error("--dataset brings its own tables; leave out --events, --items and --users")
        source = load_dataset(given["dataset"], given["root"])
    else:
        if given["events"] is None:
            arguments.error("--schema needs --events")
        source = Source(Schema.from_yaml(given["schema"]), *tables)

    console = Console()
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=console, transient=True) as bar:
        task = bar.add_task("reading and checking", total=None)

        def progress(stage: str, done: int, total: int) -> None:
            bar.update(task, description=stage, completed=done, total=total)

        log = prepare(
            source.schema,
            source.events,
            source.items,
            source.users,
            cache_dir=given["cache"],
            memory_limit=given["memory_limit"],
            progress=progress,
        )
    console.print(facts_table(log))
    folder = Path(given["cache"]).resolve() / log.fingerprint
    if log.usage:
        reports = table_reports(log)
        write_reports(reports, folder / REPORT)
        console.print(policy_table(reports, given["width"]))
    else:
        console.print(
            "What the tables look up was not counted by the version that prepared this log; delete its folder and "
            "prepare it again to see it."
        )
    console.print(f"prepared log: {folder}", soft_wrap=True)
    return 0


def facts_table(log: EventLog) -> Table:
    """What was kept, merged and excluded, for people."""
    table = Table("count", "", title=log.schema.name)
    table.columns[1].justify = "right"
    first = ("events_read", "events_kept", "events_merged", "users", "items")
    for name in (*first, *(name for name in log.facts if name not in first)):
        table.add_row(name.replace("_", " "), f"{log.facts[name]:,}")
    return table


def policy_table(reports: Sequence[TableReport], width: int) -> Table:
    """What the policy of each embedding table does to values and traffic, for people.

    Args:
        reports: one of each table.
        width: dimension of the tables that declare none.
    """
    table = Table("table", "size", "of values", "of events", title=f"tables, at width {width}", show_lines=True)
    for column in table.columns[1:]:
        column.justify, column.no_wrap = "right", True
    for report in reports:
        table.add_row(
            f"{escape(report.table)}\n{report.policy}",
            f"{report.values:,} values\n{report.rows:,} rows\n{report.bytes(width) / 2**20:,.2f} MiB",
            f"{report.collision_rate:.1%} collide",
            f"{report.dropped:.1%} dropped\n{report.bucketed:.1%} hashed\n{report.colliding:.1%} collide",
        )
    return table


def write_reports(reports: Sequence[TableReport], path: Path) -> None:
    """Writes the reports beside a prepared log, as JSON, unless they stand there already."""
    text = json.dumps(as_records(reports), indent=2) + "\n"
    if not path.exists() or path.read_text(encoding="utf-8") != text:
        temporary = path.with_name(f".{path.name}-{os.getpid()}")
        temporary.write_text(text, encoding="utf-8")
        temporary.replace(path)
