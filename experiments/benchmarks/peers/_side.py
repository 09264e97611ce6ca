"""What every side of a comparison has in its own process: data in, epochs in turns, lists of items out.

Nothing of `recsys` is imported here, because the peers live in an environment of their own. A side prints what it knows
of itself as one line of JSON, and then answers each line of its standard input with one: `epoch` trains one epoch,
`steps` some steps of one, `rank FILE` ranks the catalogue for every user and leaves the lists in a file, `end` ends it.
Between turns it sleeps.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import version
from typing import Any

import numpy as np


@dataclass
class Sequences:
    """Items of many users: user i has `items[offsets[i]:offsets[i + 1]]`, oldest first; ids are 1..n_items."""

    items: np.ndarray
    offsets: np.ndarray

    def __len__(self) -> int:
        return len(self.offsets) - 1

    def __getitem__(self, row: int) -> np.ndarray:
        return self.items[self.offsets[row] : self.offsets[row + 1]]

    def rows(self) -> np.ndarray:
        """Row of each item."""
        return np.repeat(np.arange(len(self)), np.diff(self.offsets))

    def places(self) -> np.ndarray:
        """Place of each item in its row."""
        return np.arange(len(self.items)) - np.repeat(self.offsets[:-1], np.diff(self.offsets))


@dataclass
class Task:
    """What a side is asked to do.

    Attributes:
        train: sequences of the users with two training events or more.
        history: of the users to rank for.
        n_items: size of the catalogue.
        settings: width, lr, seed, threads and whatever else is the same for all sides.
    """

    train: Sequences
    history: Sequences
    n_items: int
    settings: dict[str, Any]

    @classmethod
    def from_command_line(cls) -> Task:
        """The task that the words of the command describe."""
        parser = argparse.ArgumentParser()
        parser.add_argument("--data", required=True)
        parser.add_argument("--settings", type=json.loads, required=True)
        arguments = parser.parse_args()
        with np.load(arguments.data) as data:
            return cls(
                Sequences(data["train_items"], data["train_offsets"]),
                Sequences(data["history_items"], data["history_offsets"]),
                int(data["n_items"]),
                arguments.settings,
            )


class Channel:
    """The two pipes to the script that runs the comparison."""

    def __init__(self) -> None:
        # Libraries print; their words go where errors go.
        self._answers = os.fdopen(os.dup(1), "w")
        os.dup2(2, 1)

    def wait(self) -> list[str]:
        """The words of the next request; the process ends where there is none."""
        line = sys.stdin.readline()
        if not line:
            sys.exit("the comparison has ended early")
        return line.split()

    def tell(self, **facts: Any) -> None:
        """Answers with one line."""
        print(json.dumps(facts), file=self._answers, flush=True)


class Turns:
    """Hooks of a Lightning callback: an epoch begins when it is asked for, and is timed to the end of its last step."""

    def __init__(self, channel: Channel, facts: Callable[[], dict[str, Any]]) -> None:
        self.channel, self.facts = channel, facts
        self.since = 0.0

    def __deepcopy__(self, memo: dict[int, Any]) -> Turns:  # RecTools copies its trainer
        return self

    def on_train_start(self, trainer: Any, module: Any) -> None:
        """The side is ready."""
        self.channel.tell(**self.facts())

    def on_train_epoch_start(self, trainer: Any, module: Any) -> None:
        """Waits for its turn."""
        words = self.channel.wait()
        assert words == ["epoch"], words
        self.since = time.perf_counter()

    def on_train_epoch_end(self, trainer: Any, module: Any) -> None:
        """Gives the turn back."""
        self.channel.tell(seconds=time.perf_counter() - self.since, peak_rss_mib=peak_rss_mib())


class StepTurns:
    """Turns of some steps, each timed from its start to that of the step after the last: loading data counts.

    Args:
        channel: to the script.
        steps: of a turn.
        facts: that the side knows of itself.
    """

    def __init__(self, channel: Channel, steps: int, facts: dict[str, Any]) -> None:
        self.channel, self.steps, self.facts = channel, steps, facts
        self.taken, self.since = 0, 0.0

    def at_step(self) -> None:
        """Called where a step starts: gives the turn back and waits for the next, if this one was long enough."""
        if self.taken % self.steps == 0:
            if self.taken == 0:
                self.channel.tell(**self.facts)
            else:
                self.channel.tell(seconds=time.perf_counter() - self.since, peak_rss_mib=peak_rss_mib())
            words = self.channel.wait()
            assert words == ["steps"], words
            self.since = time.perf_counter()
        self.taken += 1


def serve(channel: Channel, rank: Callable[[], np.ndarray]) -> None:
    """Ranks whenever it is asked, until the end.

    Args:
        channel: to the script.
        rank: gives `[users, 100]` item ids, best first, 0 where there is none.
    """
    while (words := channel.wait())[0] != "end":
        since = time.perf_counter()
        lists = rank()
        seconds = time.perf_counter() - since
        np.save(words[1], lists)
        channel.tell(seconds=seconds, peak_rss_mib=peak_rss_mib())


def peak_rss_mib() -> float:
    """The most memory this process has held; what `getrusage` says may be the peak of the process that started it."""
    with open("/proc/self/status") as status:
        return next(int(line.split()[1]) / 1024 for line in status if line.startswith("VmHWM:"))


def parameters(module: Any) -> int:
    """Number of trainable numbers."""
    return sum(weight.numel() for weight in module.parameters() if weight.requires_grad)


def versions(*packages: str) -> dict[str, str]:
    """Installed versions."""
    return {package: version(package) for package in packages}
