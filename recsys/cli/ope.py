"""Says what policies would have earned, by a log of recommendations with their chances, and writes a report.

`recsys ope LOG --policy NAME=WHAT ...` reads a Parquet file with a row for each recommendation: `action`, `reward`,
`propensity`, and who was asked (`user_id`, `history`). WHAT is the folder of a run or of a model, `models:/NAME@ALIAS`,
or a Parquet table of probabilities (`action`, `probability`, and columns of the log that tell its groups apart). A
policy that the log cannot judge is refused with the reason, and the exit code is 1.
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jsonargparse import ArgumentParser, Namespace
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from recsys.cli.arms import ArmError
from recsys.cli.reports import plain, write_report

if TYPE_CHECKING:
    import pandas as pd

    from recsys.simulation.off_policy.bandit_log import BanditLog
    from recsys.simulation.off_policy.evaluate import OffPolicyReport
    from recsys.simulation.off_policy.log_columns import LogColumns
    from recsys.simulation.off_policy.policies import Policy

REFUSED = 1
_OF_THE_COMMAND = ("config", "json", "folder", "track")


def parser() -> ArgumentParser:
    """The arguments of the command."""
    arguments = ArgumentParser("recsys ope", description=__doc__, default_env=True, env_prefix="RECSYS_OPE")
    add = arguments.add_argument
    add("--config", action="config", help="YAML file with these arguments")
    add("log", type=str, help="Parquet file of recommendations")
    add("--policy", type=str, nargs="+", action="extend", help="NAME=WHAT of each policy", default=[])
    add("--k", type=int, default=10, help="a model shows any of its k best items, alike")
    add("--softmax", type=float | None, help="a temperature: a model shows its k best by their scores instead")
    add("--context", type=list[str], default=[], help="columns that the learned rewards read")
    add("--level", type=float, default=0.05, help="chance that a range misses the truth")
    add("--seed", type=int, default=0, help="of folds and resamples")
    add("--folder", type=str | None, help="of the report; default: a new one under runs")
    add("--track", action="store_true", help="tell MLflow")
    add("--json", action="store_true", help="print JSON")
    return arguments


def main(argv: list[str] | None = None) -> int:
    """Runs the command.

    Args:
        argv: its arguments; None reads the command line.

    Returns:
        The exit code; 1 where a policy is refused.

    Raises:
        ArmError: a policy is not named, there is none, or its table cannot be read.
        LogError: the log cannot be read.
        PolicyError: a policy does not fit the log.
    """
    given = parser().parse_args(argv)
    if not given.policy:
        raise ArmError("name a policy at least: --policy NAME=RUN, or NAME=TABLE.parquet")
    if given.k < 1:
        raise ArmError(f"--k must be at least 1, not {given.k}")
    if not 0 < given.level < 1:
        raise ArmError(f"--level is the chance that a range misses the truth, between 0 and 1, not {given.level}")
    from recsys.documents.document import Line
    from recsys.simulation.comparison.compare import finite
    from recsys.simulation.off_policy.bandit_log import BanditLog
    from recsys.simulation.off_policy.evaluate import evaluate_policies
    from recsys.simulation.off_policy.log_columns import LogColumns
    from recsys.simulation.report.off_policy_page import off_policy_document
    from recsys.tracking.report_run import track_report

    columns, sources = LogColumns(context=tuple(given.context)), named(given.policy)
    tables = {name: _table(source) for name, source in sources.items() if source.endswith(".parquet")}
    log = with_actions(BanditLog.read(given.log, columns), tables.values(), columns)
    report = evaluate_policies(log, read_policies(sources, tables, log, given), level=given.level, seed=given.seed)
    shows = (
        f"any of its {given.k} best items, alike"
        if given.softmax is None
        else (f"one of its {given.k} best items by a softmax of temperature {given.softmax:g}")
    )
    facts: dict[str, Line] = {
        "log": (f"{given.log}: {report.rounds:,} recommendations to {report.users:,} users",),
        **{name: (source,) for name, source in sources.items()},
        "a model shows": (shows,),
        "seed": (str(given.seed),),
    }
    settings = {name: value for name, value in plain(given.as_dict()).items() if name not in _OF_THE_COMMAND}
    document = off_policy_document(report, Path(given.log).name, facts)
    written = write_report(given.folder, "ope", document, finite({"settings": settings, **report.as_json()}))
    if given.json:
        sys.stdout.write(written.text)
    else:
        print_results(report)
    print(f"report: {written.page}", file=sys.stderr if given.json else sys.stdout)
    if given.track:  # last: what is known by now must not be lost with the store
        metrics = {
            f"{name}/{estimator}": found.value
            for name, policy in report.policies.items()
            for estimator, found in policy.estimates.items()
        }
        track_report("off-policy estimates", document.title, settings, metrics, [written.page, written.numbers])
    return REFUSED if any(policy.refusals for policy in report.policies.values()) else 0


def named(words: Sequence[str]) -> dict[str, str]:
    """What each policy is, by its name.

    Raises:
        ArmError: a name is missing, or stands twice.
    """
    found: dict[str, str] = {}
    for word in words:
        name, at, source = word.partition("=")
        if not (at and name and source):
            raise ArmError(f"--policy {word}: give the policy a name, such as new={word or 'RUN'}")
        if name in found:
            raise ArmError(f"--policy: two policies are called `{name}`; give them different names")
        found[name] = source
    return found


def with_actions(log: BanditLog, tables: Iterable[pd.DataFrame], columns: LogColumns) -> BanditLog:
    """The log with the actions of policies among its own: what was never logged is for the diagnostics to judge."""
    import pandas as pd

    from recsys.simulation.off_policy.bandit_log import BanditLog

    known = log.actions
    for table in tables:
        if "action" in table.columns:
            known = known.union(pd.Index(table["action"].dropna().unique()), sort=False)
    return log if len(known) == log.n_actions else BanditLog.from_frame(log.table, columns, known, log.origin)


def read_policies(
    sources: Mapping[str, str], tables: Mapping[str, pd.DataFrame], log: BanditLog, given: Namespace
) -> dict[str, Policy]:
    """Policies of tables and of models.

    Raises:
        JobError: there is no such model.
        LogError: the log does not say who was asked.
        PolicyError: a table does not fit the log.
    """
    from recsys.candidates.models import find_model
    from recsys.simulation.off_policy.choices import Softmax, TopKUniform
    from recsys.simulation.off_policy.policies import TablePolicy
    from recsys.simulation.off_policy.scored_policy import ScoredPolicy
    from recsys.tracking.answered_rounds import answered_rounds
    from recsys.tracking.bundle import Bundle
    from recsys.tracking.bundle_server import BundleServer, ServingParams

    choice = TopKUniform(given.k) if given.softmax is None else Softmax(given.softmax)
    policies: dict[str, Policy] = {}
    with tempfile.TemporaryDirectory() as downloads:
        for name, source in sources.items():
            if (table := tables.get(name)) is not None:
                groups = [column for column in table.columns if column not in ("action", "probability")]
                policies[name] = TablePolicy.from_frame(log, table, by=groups)
                continue
            files = find_model(source, Path(downloads))
            server = BundleServer(Bundle.load(files.folder), files.version)

            def answer(frame: pd.DataFrame, params: dict[str, Any], server: BundleServer = server) -> pd.DataFrame:
                return server.answer(frame, ServingParams(**params))

            policies[name] = ScoredPolicy(answered_rounds(log, answer, name=name, k=given.k), choice)
    return policies


def _table(source: str) -> pd.DataFrame:
    import pandas as pd

    try:
        return pd.read_parquet(source)
    except (OSError, ValueError) as error:
        raise ArmError(f"{source}: no Parquet table of probabilities ({error})") from None


def print_results(report: OffPolicyReport) -> None:
    """Prints whether the log can judge, the estimates, and what they come to."""
    from recsys.simulation.report.off_policy_page import off_policy_answer, signed
    from recsys.simulation.report.words import number, percent

    console = Console(highlight=False)
    checks = Table("policy", title="can the log judge?", title_justify="left")
    for head in ("tells as much as", "of rounds", "heaviest weight", "mean weight", "never tried"):
        checks.add_column(head, justify="right")
    for name, policy in report.policies.items():
        found = policy.diagnostics
        checks.add_row(
            escape(name),
            number(found.effective_rounds),
            f"{found.rounds:,}",
            number(found.max_weight),
            number(found.mean_weight),
            percent(found.unsupported),
        )
    console.print(checks)
    table = Table("policy", "estimator", title=f"mean reward (logged: {number(report.logged)})", title_justify="left")
    for head in ("estimate", "gain", f"{percent(1 - report.level)} range of the gain"):
        table.add_column(head, justify="right")
    for name, policy in report.policies.items():
        for estimator, value in policy.estimates.items():
            ends = f"{signed(value.gain_low)} to {signed(value.gain_high)}"
            table.add_row(escape(name), estimator, number(value.value), signed(value.gain), ends)
    if table.row_count:
        console.print(table)
    for name in report.policies:
        said = off_policy_answer(report, name)
        console.print(escape(said.text), style="bold", soft_wrap=True)
        if report.policies[name].refusals:
            console.print(escape(said.more), soft_wrap=True)
