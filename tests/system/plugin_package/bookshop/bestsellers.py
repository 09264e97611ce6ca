"""Prints the items of a prepared log that have most events."""

import argparse


def main(argv: list[str]) -> int:
    parser = argparse.ArgumentParser("recsys bestsellers", description=__doc__)
    parser.add_argument("log", help="folder of a prepared log")
    parser.add_argument("--k", type=int, default=10, help="number of items")
    given = parser.parse_args(argv)

    import numpy as np

    from recsys.features.event_log import EventLog

    log = EventLog.open(given.log)
    counts = np.bincount(log.item_id)
    for item in np.argsort(-counts, kind="stable")[: given.k]:
        print(log.items.decode([item])[0], counts[item])
    return 0
