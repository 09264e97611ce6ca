"""What off-policy estimators make of the Open Bandit Dataset, whose two policies ran side by side.

Each campaign of a fashion shop was served by a uniform policy and by Thompson sampling (BTS) at once. The value of
either is estimated from the log of the other, and compared with the clicks of its own log. `RECSYS_DATA/open_bandit`
has 10,000 rows of each; clicks are so rare that the clicks of the own log are no truth either, but an interval.

BTS knows no users, so that a distribution of items for each position stands for it. The Open Bandit Pipeline draws it
by Monte Carlo from the beta priors with which BTS started (`BernoulliTS.compute_batch_action_dist`). The samples do not
have them, and BTS learned on for the whole week. Here it is the share of each item among BTS's rounds at the position,
which estimates its mean probability over the week without bias. The mean of the logged propensities would not: rounds
in which an item was likely are logged more often, and these means sum to 1.7 and more a position. Both numbers stand in
the result. Writes `experiments/results/off_policy/open_bandit.json`.

    python experiments/open_bandit.py
    python experiments/open_bandit.py --smoke
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from _made_by import made_by
from _results import write_json
from _runs import ROOT, say

from recsys.simulation.off_policy.bandit_log import BanditLog
from recsys.simulation.off_policy.diagnostics import Limits
from recsys.simulation.off_policy.evaluate import OffPolicyReport, evaluate_policies
from recsys.simulation.off_policy.intervals import Bootstrap
from recsys.simulation.off_policy.log_columns import LogColumns
from recsys.simulation.off_policy.policies import TablePolicy

OUT = Path("experiments/results/off_policy/open_bandit.json")
CAMPAIGNS = ("all", "men", "women")
COLUMNS = LogColumns(action="item_id", reward="click", propensity="propensity_score")
ANYTHING = Limits(unsupported=1.0, effective_rounds=0.0, mean_weight_p=0.0)


def shares(log: BanditLog) -> np.ndarray:
    """`[P, A]` share of each item among the rounds of a position."""
    counts = np.zeros((len(log.positions), log.n_actions))
    np.add.at(counts, (log.position, log.action), 1.0)
    return counts / counts.sum(1, keepdims=True)


def sums_of_mean_propensities(log: BanditLog) -> list[float]:
    """What the means of the logged propensities of the items sum to, by position; 1 for a policy that stands still."""
    means = log.table.groupby([COLUMNS.position, COLUMNS.action])[COLUMNS.propensity].mean()
    return [float(each) for each in means.groupby(level=0).sum()]


def judged(log: BanditLog, policy: np.ndarray, own: BanditLog, resamples: int) -> dict[str, Any]:
    """Estimates of a policy `[P, A]` from a log of another one, beside the clicks of its own log."""
    method = Bootstrap(resamples)
    name = "policy"
    policies = {name: TablePolicy(policy, log.position)}
    strict = evaluate_policies(log, policies, intervals=method, estimators=[])
    report: OffPolicyReport = evaluate_policies(log, policies, intervals=method, limits=ANYTHING)
    truth = evaluate_policies(own, {}, intervals=method)
    found = report.policies[name]
    return {
        "on_policy": {"value": truth.logged, "low": truth.logged_low, "high": truth.logged_high},
        "diagnostics": asdict(found.diagnostics),
        "refused_by_default": strict.policies[name].refusals,
        "estimates": {
            estimator: {
                **asdict(each),
                "relative_error": each.value / truth.logged - 1,
                "covers_the_on_policy_value": each.low <= truth.logged <= each.high,
            }
            for estimator, each in found.estimates.items()
        },
    }


def main(argv: list[str] | None = None) -> int:
    given = parser().parse_args(argv)
    root = given.data or (Path(os.environ["RECSYS_DATA"]) if "RECSYS_DATA" in os.environ else None)
    if root is None or not (root / "open_bandit").is_dir():
        raise SystemExit("the Open Bandit samples are not found: set RECSYS_DATA to the folder above `open_bandit`")
    started = time.perf_counter()
    found: dict[str, Any] = {}
    for campaign in CAMPAIGNS[: 1 if given.smoke else None]:
        items = pd.read_parquet(root / "open_bandit" / f"items_{campaign}.parquet")["item_id"]
        logs = {
            policy: BanditLog.read(root / "open_bandit" / f"{policy}_{campaign}.parquet", COLUMNS, items.to_list())
            for policy in ("random", "bts")
        }
        uniform = np.full((len(logs["bts"].positions), len(items)), 1 / len(items))
        resamples = 50 if given.smoke else given.resamples
        found[campaign] = {
            "bts from the uniform log": judged(logs["random"], shares(logs["bts"]), logs["bts"], resamples),
            "uniform from the bts log": judged(logs["bts"], uniform, logs["random"], resamples),
            "sums_of_mean_propensities_of_bts": sums_of_mean_propensities(logs["bts"]),
        }
        for direction in ("bts from the uniform log", "uniform from the bts log"):
            row = found[campaign][direction]
            clicks = row["on_policy"]
            say(f"{campaign}, {direction}: own log {clicks['value']:.5f} ({clicks['low']:.5f} to {clicks['high']:.5f})")
            for estimator, each in row["estimates"].items():
                say(f"  {estimator}: {each['value']:.5f} ({each['low']:.5f} to {each['high']:.5f})")
            for sentence in row["refused_by_default"]:
                say(f"  refused by default: {sentence}")
    content = {
        "campaigns": found,
        "settings": {"resamples": given.resamples, "smoke": given.smoke},
        **made_by(__file__, argv, started),
    }
    path = ROOT / given.out
    write_json(path, content, indent=2)
    say(f"wrote {path}")
    return 0


def parser() -> argparse.ArgumentParser:
    """The arguments."""
    made = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    made.add_argument("--data", type=Path, help="folder above `open_bandit`; RECSYS_DATA when left out")
    made.add_argument("--resamples", type=int, default=2000, help="of the bootstrap")
    made.add_argument("--smoke", action="store_true", help="one campaign, few resamples, to see that it runs")
    made.add_argument("--out", type=Path, default=OUT)
    return made


if __name__ == "__main__":
    sys.exit(main())
