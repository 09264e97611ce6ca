"""Trains a model, evaluates it beside its baselines, and records the run.

Every argument can stand in the YAML file, in the environment (RECSYS_FIT_TRAINER__MAX_EPOCHS=3) or on the command line
(--trainer.max_epochs 3). `--config` takes a file or the name of a recipe (`recsys recipes list`).
"""

from __future__ import annotations

import os
from pathlib import Path


def main(argv: list[str]) -> int:
    """Runs the command.

    Args:
        argv: the arguments after `recsys fit`.

    Returns:
        The exit code.
    """
    os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")  # read when torch is loaded
    from recsys.cli.fit_job import FitCLI, run, silence
    from recsys.cli.ranks import as_rank

    silence()
    return as_rank(lambda: run(FitCLI(args=with_recipe_paths(argv))))


def with_recipe_paths(argv: list[str]) -> list[str]:
    """Replaces the name of an experiment or model recipe after `--config` by its file; files stay as they are."""
    from recsys.cli.recipes import find_recipes, resolve

    out = list(argv)
    for place, word in enumerate(argv[:-1]):
        name = argv[place + 1]
        if word in ("--config", "-c") and not Path(name).exists():
            recipes = {full: path for full, path in find_recipes().items() if not full.startswith("features/")}
            out[place + 1] = str(recipes[resolve(name, recipes)])
    return out
