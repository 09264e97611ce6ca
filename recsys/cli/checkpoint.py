"""Looks into a checkpoint of a training, and makes the saved model of it.

`recsys checkpoint inspect runs/A/checkpoints/last.ckpt` prints how far the training was and which tables there are.
`recsys checkpoint export runs/A/checkpoints/best.ckpt --folder model` reads a checkpoint of any number of ranks in one
process and writes what `recsys fit` saves. It is run where `recsys fit` was, because it reads the same data.
"""

from __future__ import annotations

import argparse
from pathlib import Path


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser("recsys checkpoint", description=__doc__)
    actions = parser.add_subparsers(dest="action", required=True)
    inspect = actions.add_parser("inspect", help="print what a checkpoint holds")
    inspect.add_argument("path", type=Path, metavar="PATH", help="of the checkpoint, a file or a folder")
    inspect.add_argument("--json", action="store_true", help="print JSON")
    export = actions.add_parser("export", help="make the saved model of a checkpoint")
    export.add_argument("path", type=Path, metavar="PATH", help="of the checkpoint, in the folder of its run")
    export.add_argument("--folder", type=Path, required=True, help="where the model goes")
    export.add_argument("--memory_gib", type=float, help="what the tables may take; default: what the machine has free")
    return parser


def main(argv: list[str]) -> int:
    """Runs the command.

    Args:
        argv: its arguments.

    Returns:
        The exit code.

    Raises:
        CheckpointError: there is no checkpoint, it belongs to no run, or its tables do not fit.
    """
    given = _parser().parse_args(argv)
    if given.action == "inspect":
        from recsys.cli.checkpoint_contents import contents, print_contents

        print_contents(contents(given.path), as_json=given.json)
    else:
        from recsys.cli.checkpoint_export import export

        export(given.path, given.folder, given.memory_gib)
    return 0
