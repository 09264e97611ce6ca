"""Compares a champion with challengers before simulated users, and writes a report for those who decide.

`recsys simulate CHAMPION CHALLENGER ...` takes folders of runs or of models, `models:/NAME@champion`, `popularity`
(what is popular) and `oracle` (the most that can be gained). Users have the tastes of the log of the first run; how
they behave is said by `--users.click_model`, `--users.drift` and others. The report is `report.html` in the folder of
the simulation, and all of its numbers are in `report.json` beside it.
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

from jsonargparse import ArgumentParser
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from recsys.cli.arms import log_of, read_arms
from recsys.cli.reports import plain, write_report
from recsys.cli.simulated_users import Users
from recsys.simulation.comparison.plan import PlanError

if TYPE_CHECKING:
    from recsys.simulation.comparison.compare import Comparison

_OF_THE_COMMAND = ("config", "json", "folder", "track")


def parser() -> ArgumentParser:
    """The arguments of the command."""
    arguments = ArgumentParser("recsys simulate", description=__doc__, default_env=True, env_prefix="RECSYS_SIMULATE")
    add = arguments.add_argument
    add("--config", action="config", help="YAML file with these arguments")
    add("arms", type=str, nargs="+", help="the champion, then challengers; NAME=ARM gives one a name")
    add("--log", type=str | None, help="the prepared log whose users take part; default: that of the first run")
    add("--folder", type=str | None, help="of the report; default: a new one under runs")
    add("--days", type=int, default=14, help="of the experiment")
    add("--before", type=int, default=7, help="days before it, in which everybody has the champion")
    add("--users_per_day", type=int | None, help="different visitors a day; default: users as many as the log has")
    add("--length", type=int, default=10, help="items of a list")
    add("--goal", type=str, default="clicks", help="what a challenger is meant to improve, per visit")
    add("--guardrails", type=dict[str, float], default={"conversions": 0.05}, help="what may not fall by a share")
    add("--level", type=float, default=0.05, help="chance to call a challenger different that is not")
    add("--power", type=float, default=0.8, help="chance that a planned live test shows what was found")
    add("--live_users_per_day", type=float | None, help="visitors a day of a live test; default: the simulated ones")
    add("--assignments", type=int, default=1000, help="experiments without a difference, to count false alarms")
    add("--seed", type=int, default=0, help="of everything that is drawn")
    arguments.add_class_arguments(Users, "users", help="the simulated users")
    add("--track", action="store_true", help="tell MLflow")
    add("--json", action="store_true", help="print JSON")
    return arguments


def main(argv: list[str] | None = None) -> int:
    """Runs the command.

    Args:
        argv: its arguments; None reads the command line.

    Returns:
        The exit code.

    Raises:
        ArmError: the arms cannot be compared.
        PlanError: numbers make no sense.
        PopulationError: users cannot be made of the log as it is asked.
        ExperimentError: too few users came.
    """
    given = parser().parse_args(argv)
    for name in ("days", "before", "length"):
        if getattr(given, name) < 1:
            raise PlanError(f"--{name} must be at least 1, not {getattr(given, name)}")
    if given.users_per_day is not None and given.users_per_day < 1:
        raise PlanError(f"--users_per_day must be at least 1, not {given.users_per_day}")
    from recsys.cli.simulation_context import context_of
    from recsys.simulation.comparison.compare import compare_arms
    from recsys.simulation.comparison.plan import Plan
    from recsys.simulation.report.comparison_page import comparison_document
    from recsys.simulation.world.experiment import Design
    from recsys.tracking.report_run import track_report

    plan = Plan(
        goal=given.goal,
        guardrails={name: margin for name, margin in given.guardrails.items() if name != given.goal},
        level=given.level,
        power=given.power,
        assignments=given.assignments,
        live_visitors=given.live_users_per_day,
    )
    console = Console(stderr=True, highlight=False)

    def progress(stage: str) -> None:
        console.print(escape(stage), style="dim")

    arms = read_arms(given.arms)
    log = log_of(arms, given.log)
    settings = Users(**given.users.as_dict())
    how = "fitting" if settings.planted is None else "planting"
    progress(f"{how} the tastes of {log.n_users:,} users of {log.schema.name}")
    made = settings.make(log, arms, given.users_per_day, given.length, given.seed)
    design = Design(
        given.days, given.length, before=given.before, seed=given.seed, salt=f"recsys simulate {given.seed}"
    )
    comparison = compare_arms(made.population, made.policies, design, plan, progress)
    settings_given = {name: value for name, value in plain(given.as_dict()).items() if name not in _OF_THE_COMMAND}
    content = {
        "arms": {arm.name: {"source": arm.source, "is": arm.described} for arm in arms},
        "log": {"name": log.schema.name, "fingerprint": log.fingerprint},
        "population": made.facts,
        "settings": settings_given,
        **comparison.as_json(),
    }
    document = comparison_document(comparison, context_of(made, log, arms, given.days, given.seed))
    written = write_report(given.folder, "simulation", document, content)
    if given.json:
        sys.stdout.write(written.text)
    else:
        print_results(comparison)
    print(f"report: {written.page}", file=sys.stderr if given.json else sys.stdout)
    if given.track:  # last: what is known by now must not be lost with the store
        track_report(
            f"simulations of {log.schema.name}",
            document.title,
            settings_given,
            metrics_of(comparison),
            [written.page, written.numbers],
        )
    return 0


def metrics_of(comparison: Comparison) -> dict[str, float]:
    """Lifts with their ends, and false alarms, by name."""
    found = {"false_alarms": comparison.equal.at_end.share}
    for name, result in comparison.challengers.items():
        for metric, of_metric in result.metrics.items():
            lift = of_metric.lift
            found |= {
                f"{name}/{metric}_{key}": value
                for key, value in (("lift", lift.value), ("lift_low", lift.low), ("lift_high", lift.high))
            }
    return found


def print_results(comparison: Comparison) -> None:
    """Prints a table and the verdicts."""
    from recsys.simulation.report.comparison_page import verdict_lines
    from recsys.simulation.report.words import number, percent, span

    console = Console(highlight=False)
    table = Table(
        "challenger", "metric", title=f"per visit, against {escape(comparison.control)}", title_justify="left"
    )
    for head in (escape(comparison.control), "challenger", "lift", f"{percent(1 - comparison.level)} range"):
        table.add_column(head, justify="right")
    for name, result in comparison.challengers.items():
        for metric, found in result.metrics.items():
            table.add_row(
                escape(name),
                metric if found.margin is None else f"{metric} (may lose {percent(found.margin)})",
                number(found.control),
                number(found.treatment),
                percent(found.lift.value, signed=True),
                span(found.lift),
            )
    console.print(table)
    for line in verdict_lines(comparison):
        console.print(escape(line), style="bold", soft_wrap=True)
