"""Registers models, and makes them the one in production with evidence, and back again.

`recsys registry register RUN` makes the model of a run the challenger; `compare` and `promote` judge it against the
champion on frozen requests; `rollback` brings the previous champion back; `list` and `history` tell what is and was.
Exit codes: 0 done, 1 refused by a gate, 2 wrong usage or input, 3 somebody else was first, 4 the store cannot be used.
"""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path

REFUSED, WRONG, LOST, UNREACHABLE = 1, 2, 3, 4


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        "recsys registry", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    actions = parser.add_subparsers(dest="action", required=True)
    register = actions.add_parser("register", help="make the model of a run a version, and the challenger")
    register.add_argument("run", metavar="RUN", help="folder of a run, or id of an MLflow run")
    register.add_argument("--name", help="of the registered model; default: the name of the job")

    def of_model(name: str, what: str) -> argparse.ArgumentParser:
        action = actions.add_parser(name, help=what)
        action.add_argument("name", metavar="NAME", help="of the registered model")
        return action

    of_model("list", "print the versions").add_argument("--json", action="store_true", help="print JSON")
    of_model("history", "print who did what, when and why").add_argument(
        "--json", action="store_true", help="print JSON"
    )
    compare = of_model("compare", "print how champion and challenger do on the same requests")
    compare.add_argument("--metrics", nargs="+", metavar="METRIC", help="rows of the table, such as NDCG@10")
    compare.add_argument("--json", action="store_true", help="print JSON")
    compare.add_argument("--retrieve", type=int, default=0, metavar="N", help="items retrieved for the ranking")
    promote = actions.add_parser("promote", help="put the challenger before gates, and make it the champion")
    promote.add_argument("name", metavar="NAME", nargs="?", help="of the registered model")
    promote.add_argument("--gates", type=Path, metavar="FILE", help="what it must show; default: see --print-gates")
    promote.add_argument("--print-gates", action="store_true", help="print the default gates, as a file to change")
    promote.add_argument("--dry-run", action="store_true", help="judge and tell, and write nothing to the store")
    promote.add_argument("--bandit-log", type=Path, metavar="FILE", help="logged recommendations with propensities")
    promote.add_argument("--json", action="store_true", help="print JSON")
    for action in (compare, promote):
        action.add_argument("--evaluation-set", type=Path, metavar="FOLDER", help="default: that of the challenger")
    rollback = of_model("rollback", "make the previous champion the champion again")
    rollback.add_argument("--reason", required=True, metavar="TEXT", help="why; stays with the version")
    return parser


def main(argv: list[str]) -> int:
    """Runs the command.

    Args:
        argv: its arguments.

    Returns:
        The exit code.
    """
    from recsys.cli.main import TRACEBACK, is_for_people

    parser = _parser()
    given = parser.parse_args(argv)
    if given.action == "promote" and not given.print_gates and given.name is None:
        parser.error("promote: name a registered model")
    from recsys.cli.registry_actions import ACTIONS
    from recsys.tracking.mlflow_store import TrackingError
    from recsys.tracking.registry_calls import LostRaceError

    try:
        return ACTIONS[given.action](given) or 0
    except Exception as error:
        if os.environ.get(TRACEBACK) == "1" or not is_for_people(error):
            raise
        print(f"recsys registry {given.action}: {error}", file=sys.stderr)
        if isinstance(error, TrackingError):
            return UNREACHABLE
        return LOST if isinstance(error, LostRaceError) else WRONG
