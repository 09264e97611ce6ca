#!/usr/bin/env bash
# The main job from beginning to end: train, recommend, search, put models in production by evidence and back, and
# compare with what is popular before simulated users.
#
#   experiments/demo.sh RECSYS "USERS" QUERY
#
# RECSYS is the command; USERS are of MovieLens-100K. Four new folders under runs/ hold runs and report, MLflow's store
# the rest.
set -euo pipefail

recsys=$1 users=$2 query=$3
stamp=$(date +%Y%m%d-%H%M%S)
run=runs/demo-$stamp model=demo-$stamp

say() { printf '\n== %s\n' "$*"; }

# Registers the model of a run, puts it before the gates, and sees whether they say what they must: 0 passed, 1 refused.
promote() {
    "$recsys" registry register "$1" --name "$model"
    local code=0
    "$recsys" registry promote "$model" || code=$?
    [ "$code" = "$2" ] || { echo "expected exit code $2 of promote, not $code"; exit 1; }
}

say "an early model, of 8 epochs: better than popularity?"
"$recsys" fit --config search_movielens --job.folder "$run-early" --trainer.max_epochs 8 --job.baselines '[]'
promote "$run-early" 0

say "the whole job, beside every baseline"
"$recsys" fit --config search_movielens --job.folder "$run"
read -ra some <<< "$users"
"$recsys" recommend "$run" --user "${some[@]}" --k 5
"$recsys" recommend "$run" --user "${some[0]}" --query "$query" --k 5

say "better than the early model?"
promote "$run" 0

say "a model that has hardly learned, which must be refused"
"$recsys" fit --config search_movielens --job.folder "$run-worse" --trainer.max_epochs 1 --job.baselines '[]'
promote "$run-worse" 1

say "back to the early model, with the reason on record"
"$recsys" registry rollback "$model" --reason "to show that it takes seconds"
"$recsys" registry list "$model"
"$recsys" registry history "$model"

say "would people click more than on what is popular? an experiment before simulated users"
"$recsys" simulate popularity "$run" --folder "$run-simulation"
echo "recsys server    # shows runs, models, cards and verdicts"
