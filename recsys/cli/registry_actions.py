"""What `recsys registry` does, one function an action."""

from __future__ import annotations

import json
import re
import sys
from argparse import Namespace
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from recsys.cli.registry import REFUSED
from recsys.evaluation.evaluation_set import EvaluationSet
from recsys.evaluation.report import comparison_table, protocol
from recsys.evaluation.result import compare_evaluations
from recsys.tracking.gates.gate import GateError, Verdict
from recsys.tracking.gates.off_policy_bound import OffPolicyBound
from recsys.tracking.gates.rules import DEFAULT, GateRules
from recsys.tracking.gates.run import outcome_of, run_gates
from recsys.tracking.promotion import JUDGED_AT, JUDGED_BY, VERDICT, case_of, record_verdicts
from recsys.tracking.promotion import promote as promote_challenger
from recsys.tracking.promotion import rollback as roll_back
from recsys.tracking.registration import FINGERPRINT, REGISTERED_BY
from recsys.tracking.registration import register as register_run
from recsys.tracking.registry import PROMOTED_AT, ROLLED_BACK, Registry
from recsys.tracking.registry_calls import RegistryError

_STYLE = {"passed": "green", "refused": "red", "error": "red", "not run": "dim"}
_TIME = re.compile(r"^(\d{4}-\d\d-\d\d)T(\d\d:\d\d:\d\d)\+00:00$")  # in a table it may be broken at the blank
_KINDS = ("HR", "Recall", "NDCG", "MRR")


def register(given: Namespace) -> None:
    """Registers a run."""
    version = register_run(given.run, given.name)
    print(f"models:/{version.name}/{version.version} is the challenger of `{version.name}`")
    if FINGERPRINT not in version.tags:
        print("its run has no evaluation set, so that the default gates will refuse it", file=sys.stderr)


def list_versions(given: Namespace) -> None:
    """Prints the versions."""
    registry = Registry.open(given.name)
    rows = [
        {
            "version": int(version.version),
            "aliases": sorted(version.aliases),
            "verdict": version.tags.get(VERDICT),
            "judged_at": version.tags.get(JUDGED_AT),
            "promoted_at": version.tags.get(PROMOTED_AT),
            "rolled_back_because": version.tags.get(ROLLED_BACK),
            "evaluation_set": version.tags.get(FINGERPRINT),
            "registered_at": _time(version.creation_timestamp),
            "run": version.run_id,
        }
        for version in registry.versions()
    ]
    if given.json:
        print(json.dumps(rows, indent=2))
        return
    columns = ("version", "aliases", "verdict", "promoted_at", "rolled_back_because", "run")
    heads = [column.replace("_", " ") for column in columns]
    Console().print(_table(heads, ([_cell(row[column]) for column in columns] for row in rows)))


def history(given: Namespace) -> None:
    """Prints what happened, oldest first."""
    registry = Registry.open(given.name)
    rows: list[tuple[Any, ...]] = []
    for version in registry.versions():
        at = _time(version.creation_timestamp)
        tags = version.tags
        rows.append((at, at, "registered", int(version.version), tags.get(REGISTERED_BY, version.user_id), None))
        if VERDICT in tags:
            at = tags[JUDGED_AT]
            rows.append((at, at, f"judged: {tags[VERDICT]}", int(version.version), tags[JUDGED_BY], None))
    latest = ""
    for move in registry.moves():
        latest = max(latest, move.at)  # moves stay in their order where clocks of several machines differ
        what = move.kind if move.state == "done" else f"{move.kind}, {move.state}"
        why = move.because or (f"replaces {move.replaced}" if move.replaced else "first champion")
        rows.append((latest, move.at, what, int(move.champion), move.by, why))
    rows = [row[1:] for row in sorted(rows, key=lambda row: row[0])]
    columns = ("at", "what", "version", "by", "why")
    if given.json:
        print(json.dumps([dict(zip(columns, row, strict=True)) for row in rows], indent=2))
        return
    Console().print(_table(columns, ([_cell(value) for value in row] for row in rows)))


def compare(given: Namespace) -> None:
    """Prints a paired comparison of champion and challenger for each task."""
    case = case_of(Registry.open(given.name), _evaluation_set(given), given.retrieve)
    console, tasks = Console(), []
    for pair in case.pairs():
        found = compare_evaluations(pair.champion, pair.challenger)
        missing = [name for name in given.metrics or () if name not in found]
        if missing:
            raise RegistryError(f"no {', '.join(missing)}; there are {', '.join(found)}")
        usual = [f"{kind}@{min(pair.champion.facts['ks'])}" for kind in _KINDS]
        shown = {name: found[name] for name in given.metrics or (found if given.json else usual)}
        tasks.append({"task": pair.task, "metrics": {name: asdict(value) for name, value in shown.items()}})
        if not given.json:
            console.print(comparison_table(case.champion.name, case.challenger.name, shown))
            console.print(protocol(pair.champion), style="dim")
    if given.json:
        content = {"champion": case.champion.name, "challenger": case.challenger.name, "tasks": tasks}
        print(json.dumps(content, indent=2, allow_nan=False))


def promote(given: Namespace) -> int:
    """Judges the challenger, and makes it the champion where all gates pass."""
    if given.print_gates:
        sys.stdout.write(DEFAULT.read_text(encoding="utf-8"))
        return 0
    rules = GateRules.read(given.gates)
    gates = rules.build()
    if given.bandit_log is not None:
        if not given.bandit_log.is_file():
            raise GateError(f"{given.bandit_log}: no such file")
        if not any(isinstance(gate, OffPolicyBound) for gate in gates.values()):
            raise GateError("no gate reads --bandit-log; declare an OffPolicyBound with its estimator in --gates")
    registry = Registry.open(given.name)
    if not given.dry_run:
        registry.repair()
    case = case_of(registry, _evaluation_set(given), rules.retrieve, given.bandit_log)
    verdicts = run_gates(gates, case)
    outcome = outcome_of(verdicts)
    if given.json:
        content = {"challenger": case.challenger.version, "champion": case.champion.version, "outcome": outcome}
        print(json.dumps(content | {"gates": [v.as_json() for v in verdicts]}, indent=2, allow_nan=False))
    else:
        Console().print(verdict_table(f"{case.challenger.name}, against {case.champion.name}", verdicts))
    if not given.dry_run:
        record_verdicts(registry, case, verdicts)
    said, version = sys.stderr, f"version {case.challenger.version} of `{registry.name}`"
    if outcome != "passed":
        names = ", ".join(verdict.name for verdict in verdicts if not verdict.passed)
        print(f"{version} is refused by {names}", file=said)
        return REFUSED
    if given.dry_run:
        print(f"{version} would be promoted", file=said)
        return 0
    promote_challenger(registry, case, verdicts)
    print(f"{version} is the champion", file=said)
    return 0


def rollback(given: Namespace) -> None:
    """Brings the previous champion back."""
    move = roll_back(Registry.open(given.name), given.reason)
    print(f"version {move.champion} of `{given.name}` is the champion again, {move.replaced} is not")


ACTIONS: dict[str, Callable[[Namespace], int | None]] = {
    "register": register,
    "list": list_versions,
    "history": history,
    "compare": compare,
    "promote": promote,
    "rollback": rollback,
}


def verdict_table(title: str, verdicts: Sequence[Verdict]) -> Table:
    """A `rich` table of verdicts."""
    rows = ([escape(v.name), _outcome(v), escape(v.limit), escape(v.sentence)] for v in verdicts)
    table = _table(["gate", "verdict", "demanded", "found"], rows)
    table.title, table.title_justify, table.title_style = title, "left", ""
    return table


def _table(heads: Sequence[str], rows: Iterable[Sequence[str]]) -> Table:
    """A table that is folded where the terminal is narrow: nothing is cut off."""
    table = Table()
    for head in heads:
        table.add_column(head, overflow="fold")
    for row in rows:
        table.add_row(*row)
    return table


def _outcome(verdict: Verdict) -> str:
    return f"[{_STYLE[verdict.outcome]}]{verdict.outcome}[/]"


def _evaluation_set(given: Namespace) -> EvaluationSet | None:
    return None if given.evaluation_set is None else EvaluationSet.load(given.evaluation_set)


def _time(milliseconds: int) -> str:
    return datetime.fromtimestamp(milliseconds / 1000, UTC).isoformat(timespec="seconds")


def _cell(value: Any) -> str:
    if isinstance(value, list):
        return ", ".join(value)
    return "" if value is None else escape(_TIME.sub(r"\1 \2", str(value)))
