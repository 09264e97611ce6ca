"""One training (a row with a seed) as a process of its own: folder, command, state, and how many are driven."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, NamedTuple

import yaml
from _ranking import is_done
from _row import REFIT, STRICT, Row, rule_of

ROOT = Path(__file__).resolve().parents[1]
State = Literal["new", "interrupted", "changed", "done"]
Step = Literal["fit", "rank"]
"""Of a run, one process each: the second follows on search logs, for models that are saved."""
ENVIRONMENT = {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
"""Two processes of one thread do more than one process with two: the tensors of a step are small."""
POLL_S, HEARTBEAT_S = 0.2, 120


def environment() -> dict[str, str]:
    """Of every process: one thread, and the modules beside this one are importable, as classes of rows must be."""
    path = [str(Path(__file__).parent), *filter(None, [os.environ.get("PYTHONPATH")])]
    return os.environ | ENVIRONMENT | {"PYTHONPATH": os.pathsep.join(path)}


class Started(NamedTuple):
    """A process, what it does, and since when the run is at it (monotonic seconds)."""

    process: subprocess.Popen[bytes]
    step: Step | None
    since: float


@dataclass(frozen=True)
class Run:
    """One training.

    Attributes:
        row: what is trained.
        seed: of everything that is drawn.
        root: folder of all runs, relative to the repository.
        extra: arguments for every run of this call, such as one epoch alone.
    """

    row: Row
    seed: int
    root: Path
    extra: tuple[tuple[str, Any], ...] = ()

    @property
    def name(self) -> str:
        """To print."""
        return f"{self.row.name}/{self.seed}"

    @property
    def folder(self) -> Path:
        """Of the run itself."""
        return ROOT / self.root / self.row.dataset / self.row.protocol / self.row.model / str(self.seed)

    @property
    def log(self) -> Path:
        """What the process prints."""
        return self.folder.with_name(f"{self.seed}.log")

    @property
    def request(self) -> Path:
        """What the run was asked for; beside its folder, which must be empty when it starts."""
        return self.folder.with_name(f"{self.seed}.request.json")

    @cached_property
    def first(self) -> Run | None:
        """The run that must be finished before this one: a refit takes its epochs from the strict run of its seed."""
        if self.row.protocol != REFIT or self.row.is_baseline:
            return None
        return replace(self, row=replace(self.row, protocol=STRICT))

    def settings(self) -> dict[str, Any]:
        """Arguments of the process beside its folder.

        Raises:
            FileNotFoundError: the strict run of a refit has no best epoch yet.
        """
        if self.row.is_baseline:
            return {"dataset": self.row.dataset, "protocol": self.row.protocol, "model": self.row.model}
        settings = {"data.split": rule_of(self.row.protocol), **self.row.settings, **dict(self.extra)}
        if self.first is not None:
            settings["trainer.max_epochs"] = best_epochs(self.first.folder)
        return settings

    @property
    def step(self) -> Step | None:
        """What is to be done next; None when everything is there."""
        if not is_finished(self.folder):
            return "fit"
        ranks = self.row.candidates and not self.row.is_baseline
        return "rank" if ranks and not is_done(self.folder, self.row.tasks) else None

    def command(self, resume: bool) -> list[str]:
        """The words of the next process."""
        folder = str(self.folder.relative_to(ROOT)) if self.folder.is_relative_to(ROOT) else str(self.folder)
        if self.step == "rank":
            return [sys.executable, "experiments/_ranking.py", "--folder", folder, "--tasks", *self.row.tasks]
        if self.row.is_baseline:
            words = [sys.executable, "experiments/_baselines.py", "--seed", str(self.seed), "--folder", folder]
            return words + _flags(self.settings())
        words = [sys.executable, "-m", "recsys.cli.main", "fit", "--config", f"experiments/{self.row.dataset}.yaml"]
        fixed = {"seed_everything": self.seed, "job.folder": folder, "job.track": False, "job.baselines": []}
        return words + _flags(self.settings() | fixed | ({"job.resume": True} if resume else {}))

    def fingerprint(self) -> str:
        """Changes with the settings of the row and with the recipe, not with comments in it.

        On a search log it changes with the schema too, which says how queries and texts are read.
        """
        name = f"{self.row.dataset}.yaml"
        recipe = None if self.row.is_baseline else _plain(ROOT / "experiments" / name)
        parts = [recipe, self.settings(), *([_plain(ROOT / "features" / name)] if self.row.searches else [])]
        return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()

    def state(self) -> State:
        """Whether there is anything to do."""
        asked = json.loads(self.request.read_text(encoding="utf-8")) if self.request.exists() else {}
        resumable = is_finished(self.folder) or (self.folder / "checkpoints" / "last.ckpt").exists()
        if not resumable:
            return "new"
        try:
            if asked.get("fingerprint") != self.fingerprint():
                return "changed"
        except FileNotFoundError:  # the strict run was taken away
            return "changed"
        return "interrupted" if self.step else "done"

    def start(self) -> Started:
        """Starts or resumes the process, in a session of its own: Ctrl-C reaches it through `interrupt` alone."""
        resume = self.state() == "interrupted"
        if not resume:
            shutil.rmtree(self.folder, ignore_errors=True)
            self.folder.parent.mkdir(parents=True, exist_ok=True)
            request = {"fingerprint": self.fingerprint(), "settings": self.settings()}
            self.request.write_text(json.dumps(request, indent=2) + "\n", encoding="utf-8")
        with self.log.open("ab" if resume else "wb") as log:
            step = self.step
            process = subprocess.Popen(
                self.command(resume),
                cwd=ROOT,
                env=environment(),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        return Started(process, step, time.monotonic())

    def last_words(self, lines: int = 5) -> str:
        """The end of what the process printed."""
        if not self.log.exists():
            return "(it printed nothing)"
        return "\n".join(self.log.read_text(encoding="utf-8", errors="replace").splitlines()[-lines:])


def _plain(path: Path) -> Any:
    return yaml.safe_load(path.read_text(encoding="utf-8"))


def _flags(settings: Mapping[str, Any]) -> list[str]:
    words: list[str] = []
    for name, value in settings.items():
        words += [f"--{name}", value if isinstance(value, str) else json.dumps(value)]
    return words


def is_finished(folder: Path) -> bool:
    """Whether a run was trained and evaluated to its end."""
    record = folder / "run.json"
    return record.exists() and json.loads(record.read_text(encoding="utf-8"))["status"] == "finished"


def best_epochs(folder: Path) -> int:
    """Epochs after which a run validated best.

    Raises:
        FileNotFoundError: it is not finished, or had no validation.
    """
    import torch  # two seconds that a listing does not need

    best = folder / "checkpoints" / "best.ckpt"
    if not is_finished(folder):
        raise FileNotFoundError(f"{folder}: not finished")
    return int(torch.load(best, map_location="cpu", weights_only=True, mmap=True)["epoch"]) + 1


def with_first(runs: Iterable[Run]) -> list[Run]:
    """The runs and what must be there before them, each once, in an order that can be worked through."""
    ordered: dict[Run, None] = {}
    for run in sorted(runs, key=lambda run: run.first is not None):
        if run.first is not None:
            ordered.setdefault(run.first)
        ordered.setdefault(run)
    return sorted(ordered, key=lambda run: run.first is not None)


def drive(runs: list[Run], workers: int, again: bool = False) -> list[Run]:
    """Works through runs, several at a time, skips what is done and resumes what was interrupted.

    Args:
        runs: in an order in which `Run.first` comes earlier.
        workers: processes at a time.
        again: throw away and repeat runs that other settings have made; else they are left as they are, and reported.

    Returns:
        The runs that are not done.

    Raises:
        KeyboardInterrupt: after the running processes have ended; what they did is resumed by the next call.
    """
    states = {run: run.state() for run in runs}
    waiting = [run for run in runs if states[run] != "done" and (again or states[run] != "changed")]
    bad = [run for run in runs if run not in waiting and states[run] == "changed"]
    for run in bad:
        say(f"{run.name}: made with other settings or another recipe; `--again` repeats it")
    total, ended, heartbeat = len(waiting), 0, time.monotonic() + HEARTBEAT_S
    running: dict[Run, Started] = {}
    say(f"{len(runs)} runs: {sum(state == 'done' for state in states.values())} done, {total} to do")
    try:
        while waiting or running:
            for run in [run for run in waiting if run.first in bad]:
                waiting.remove(run)
                bad.append(run)
                ended += 1
                say(
                    f"[{ended}/{total}] {run.name}: left out, because {run.first.name if run.first else ''} is not done"
                )
            ready = [run for run in waiting if run.first not in {*waiting, *running}]
            for run in ready[: workers - len(running)]:
                waiting.remove(run)
                running[run] = run.start()
                say(f"{run.name}: started")
            for run, (process, step, since) in list(running.items()):
                if process.poll() is None:
                    continue
                state = run.state()
                if process.returncode == 0 and state == "interrupted" and run.step != step:
                    running[run] = run.start()._replace(since=since)
                    continue
                del running[run]
                ended += 1
                progress = f"[{ended}/{total}] {run.name}: {time.monotonic() - since:.0f} s"
                if process.returncode == 0 and state == "done":
                    say(progress)
                    continue
                bad.append(run)
                if process.returncode == 0 and state == "changed":
                    say(f"{progress}; its recipe or its row has changed meanwhile, `--again` repeats it")
                else:
                    say(f"{progress}, failed with exit code {process.returncode}; {run.log}:\n{run.last_words()}")
            if running and time.monotonic() > heartbeat:
                heartbeat = time.monotonic() + HEARTBEAT_S
                for run in running:
                    say(f"{run.name}: {run.last_words(1)}")
            time.sleep(POLL_S)
    except KeyboardInterrupt:
        interrupt({run: started.process for run, started in running.items()})
        raise
    return bad


def interrupt(running: Mapping[Run, subprocess.Popen[bytes]]) -> None:
    """Hands Ctrl-C on, and waits: the first one lets each process finish its step, a second one ends it at once."""
    signals = iter((signal.SIGINT, signal.SIGINT, signal.SIGTERM))
    while any(process.poll() is None for process in running.values()):
        number = next(signals, signal.SIGKILL)
        for process in running.values():
            if process.poll() is None:
                process.send_signal(number)
        say(f"waiting for {len(running)} runs to write their checkpoints; Ctrl-C again hurries them")
        try:
            for process in running.values():
                process.wait()
        except KeyboardInterrupt:
            continue


def say(text: str) -> None:
    """A line with the time of day."""
    print(f"{time.strftime('%H:%M:%S')} {text}", flush=True)
