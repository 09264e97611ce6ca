"""Plans how the tables of a job are sharded, before any machine is booked: memory, traffic, and what does not fit.

`recsys plan --config RECIPE --ranks 8 --device cuda --memory_gib 80` builds the job's network without memory, asks
TorchRec's planner, and prints what each table takes on each rank and what the ranks send one another in a step. What is
not said here is as the recipe says; its `trainer.strategy` may hold rules and a topology. Sizes come from the prepared
log, and `--rows item_id=10000000` plans for a catalogue that does not exist yet. The exit code is 0 where the tables
fit, 1 where they do not (it then says what would make them fit), and 2 where the arguments are wrong.
"""

from __future__ import annotations


def main(argv: list[str]) -> int:
    """Runs the command.

    Args:
        argv: the arguments after `recsys plan`.

    Returns:
        0: the tables fit; 1: they do not; 2: the arguments are wrong.
    """
    import json
    import sys

    from recsys.cli.fit import with_recipe_paths
    from recsys.cli.fit_job import silence
    from recsys.cli.plan_job import PlanCLI, make_plan
    from recsys.cli.plan_tables import print_plan
    from recsys.training.table_optimizers import TableOptimizerError
    from recsys.training.topology import PlanError

    silence()
    cli = PlanCLI(args=with_recipe_paths(argv))
    try:
        planned = make_plan(cli)
    except (PlanError, TableOptimizerError) as error:
        print(f"recsys plan: {error}", file=sys.stderr)
        return 2
    if cli.config.json:
        print(json.dumps(planned.as_json(), indent=1))
    else:
        print_plan(planned)
    return 0 if planned.fits else 1
