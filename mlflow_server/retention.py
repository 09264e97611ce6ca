"""Removes for good what was deleted in MLflow long ago: runs, logged models and experiments, with their files.

    python retention.py --days 30

What a registered version needs is never removed: where its run, logged model or experiment was deleted, it is brought
back first. The rest is `mlflow gc`, which asks the running server for the files.
"""

from __future__ import annotations

import argparse

from maintenance import STORE, alone, variable
from mlflow.cli import gc
from psycopg import Connection

# A version names its run, and its files lie under the run or the logged model that its source names.
NEEDED = """EXISTS (SELECT 1 FROM model_versions AS version WHERE current_stage <> 'Deleted_Internal'
    AND ({names}))"""
OF_RUN = NEEDED.format(names="version.run_id = runs.run_uuid OR strpos(version.source, runs.run_uuid) > 0")
OF_MODEL = NEEDED.format(
    names="strpos(version.source, logged_models.model_id) > 0 "
    "OR strpos(coalesce(version.storage_location, ''), logged_models.model_id) > 0"
)
REVIVALS = {
    "runs": f"""UPDATE runs SET lifecycle_stage = 'active', deleted_time = NULL
        WHERE lifecycle_stage = 'deleted' AND {OF_RUN}""",
    "logged models": f"""UPDATE logged_models SET lifecycle_stage = 'active'
        WHERE lifecycle_stage = 'deleted' AND {OF_MODEL}""",
    "experiments": f"""UPDATE experiments SET lifecycle_stage = 'active' WHERE lifecycle_stage = 'deleted' AND (
        EXISTS (SELECT 1 FROM runs WHERE runs.experiment_id = experiments.experiment_id AND {OF_RUN}) OR EXISTS (
        SELECT 1 FROM logged_models WHERE logged_models.experiment_id = experiments.experiment_id AND {OF_MODEL}))""",
}


def bring_back(connection: Connection) -> None:
    """Brings back what registered versions need."""
    with connection.transaction():
        for what, statement in REVIVALS.items():
            count = connection.execute(statement).rowcount
            if count:
                print(f"{what} that registered versions need, brought back: {count}")


def main() -> None:
    """Runs the command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--days", type=float, required=True, help="since when something must have been deleted")
    given = parser.parse_args()
    if given.days < 0:
        parser.error("--days must not be negative")
    words = ["--backend-store-uri", variable(STORE), "--tracking-uri", variable("MLFLOW_TRACKING_URI")]
    with alone() as connection:
        bring_back(connection)
        gc.main([*words, "--older-than", f"{round(given.days * 86400)}s"], standalone_mode=False)


if __name__ == "__main__":
    main()
