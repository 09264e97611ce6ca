"""What a job measures while it trains, and what Ctrl-C leaves behind."""

import io
import os
import re
import signal
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import lightning as L
import numpy as np
import psutil
import pytest
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from torch import nn

from recsys.features.batch import SequenceBatch
from recsys.training.callbacks import GracefulStop, StoppedBetweenSteps, Throughput, interruptible
from recsys.training.progress import EpochLines
from recsys.training.usage import Work, peak_rss_mib

LENGTHS = [[3, 1, 2], [5, 5], [4, 1, 1]]  # of the sequences of three batches
STEP_S = 0.02


class Batches:
    """The batches of `LENGTHS`, with a position that a checkpoint holds."""

    def __init__(self) -> None:
        self.next = 0

    def __len__(self) -> int:
        return len(LENGTHS)

    def __iter__(self):
        for place in range(self.next, len(LENGTHS)):
            self.next = (place + 1) % len(LENGTHS)
            lengths = torch.tensor(LENGTHS[place])
            zeros = torch.zeros(int(lengths.sum()), dtype=torch.int64)
            yield SequenceBatch.build(torch.arange(len(lengths)), lengths, zeros + 1, zeros)

    def state_dict(self):
        return {"next": self.next}

    def load_state_dict(self, state):
        self.next = state["next"]


class Slow(L.LightningModule):
    """Each step takes at least `STEP_S` and adds one to its only weight."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(()))
        self.interrupt_at: int | None = None
        self.signals = 1

    def training_step(self, batch, batch_idx):
        if self.trainer.global_step == self.interrupt_at:
            for _ in range(self.signals):
                os.kill(os.getpid(), signal.SIGINT)
        time.sleep(STEP_S)
        return -self.weight

    def configure_optimizers(self):
        return torch.optim.SGD([self.weight], lr=1.0)


class SlowValidation(L.Callback):
    def on_train_epoch_end(self, trainer, pl_module):
        time.sleep(20 * STEP_S)


def trainer(folder: Path, *callbacks: L.Callback, **arguments) -> L.Trainer:
    return L.Trainer(
        **{"max_epochs": 2} | arguments, accelerator="cpu", logger=False, callbacks=list(callbacks),
        default_root_dir=folder, enable_progress_bar=False, enable_model_summary=False,
        enable_checkpointing=any(isinstance(callback, ModelCheckpoint) for callback in callbacks),
    )  # fmt: skip


def checkpoint(folder: Path, **arguments) -> ModelCheckpoint:
    return ModelCheckpoint(folder, "last", save_on_exception=True, enable_version_counter=False, **arguments)


def saved(folder: Path) -> dict:
    return torch.load(folder / "last.ckpt", weights_only=True)


def test_values_of_an_epoch(tmp_path):
    throughput = Throughput()
    job = trainer(tmp_path, SlowValidation(), throughput)
    started = time.perf_counter()
    job.fit(Slow(), Batches())
    elapsed = time.perf_counter() - started
    logged = {name: float(value) for name, value in job.callback_metrics.items()}
    # 3 sequences padded to 3, 2 to 5, 3 to 4: 31 slots for 22 events.
    assert logged["train/padded_share"] == pytest.approx(1 - 22 / 31)
    assert 3 * STEP_S < logged["train/seconds"] < elapsed - 40 * STEP_S
    assert logged["train/sequences_per_s"] == pytest.approx(8 / logged["train/seconds"], rel=1e-5)
    assert logged["train/peak_rss_mib"] == pytest.approx(peak_rss_mib(), rel=0.05)
    assert (throughput.total.sequences, throughput.total.events, throughput.total.slots) == (16, 44, 62)
    assert throughput.total.seconds < elapsed - 40 * STEP_S
    assert throughput.epoch == Work()


def test_work_goes_on_from_a_checkpoint_in_mid_epoch(tmp_path):
    first = Throughput()
    trainer(tmp_path, first, checkpoint(tmp_path, every_n_train_steps=1), max_steps=2).fit(Slow(), Batches())
    assert first.total.sequences == 5
    second = Throughput()
    job = trainer(tmp_path, second, max_epochs=1)
    job.fit(Slow(), Batches(), ckpt_path=tmp_path / "last.ckpt")
    assert (second.total.sequences, second.total.events, second.total.slots) == (8, 22, 31)
    assert 3 * STEP_S < second.total.seconds < 3 * STEP_S + 1  # not the time of another process's clock
    assert float(job.callback_metrics["train/padded_share"]) == pytest.approx(1 - 22 / 31)


def test_nothing_done_is_no_division_by_zero():
    assert (Work().sequences_per_s, Work().padded_share) == (0.0, 0.0)


def test_peak_memory_stays_when_memory_is_freed():
    held = psutil.Process().memory_info().rss / 2**20
    block = np.ones(200 << 17)
    at_most = psutil.Process().memory_info().rss / 2**20
    assert at_most > held + 150
    del block
    assert peak_rss_mib() > at_most - 1  # the kernel counts in steps


def test_ctrl_c_stops_after_the_step_and_leaves_a_checkpoint(tmp_path, capfd):
    module = Slow()
    module.interrupt_at = 4  # the second step of the second epoch
    throughput = Throughput()
    job = trainer(tmp_path, throughput, checkpoint(tmp_path, every_n_epochs=1))
    handler = signal.getsignal(signal.SIGINT)
    with pytest.raises(KeyboardInterrupt), interruptible(job):
        job.fit(module, Batches())
    assert signal.getsignal(signal.SIGINT) is handler
    assert not any(isinstance(callback, GracefulStop) for callback in job.callbacks)
    assert "stopping after this step" in capfd.readouterr().err
    left = saved(tmp_path)
    assert left["global_step"] == 5
    assert float(left["state_dict"]["weight"]) == 5  # the step was finished
    assert throughput.total.sequences == 8 + 5

    again, throughput = Slow(), Throughput()
    job = trainer(tmp_path, throughput)
    with interruptible(job):
        job.fit(again, Batches(), ckpt_path=tmp_path / "last.ckpt")
    assert throughput.total.sequences == 8 + 8
    assert job.global_step == 6 and float(again.weight.detach()) == 6


class Validated(L.Callback):
    """Notes after which step an epoch was validated, as jobs do it, and asks to stop in one validation if told to."""

    def __init__(self, ask_at: int | None = None) -> None:
        self.ask_at = ask_at
        self.steps: list[int] = []

    def on_train_epoch_end(self, trainer, pl_module):
        if trainer.global_step == self.ask_at:
            os.kill(os.getpid(), signal.SIGINT)
        self.steps.append(trainer.global_step)


@pytest.mark.parametrize("during", ["last step", "validation"])
@pytest.mark.parametrize("steps", [3, 1], ids=["three steps an epoch", "one step an epoch"])
def test_ctrl_c_at_the_end_of_an_epoch_leaves_no_epoch_without_validation(tmp_path, during, steps):
    module, validated = Slow(), Validated(steps if during == "validation" else None)
    module.interrupt_at = steps - 1 if during == "last step" else None
    last = checkpoint(tmp_path, every_n_epochs=1, save_on_train_epoch_end=True)
    job = trainer(tmp_path, validated, last, limit_train_batches=steps)
    with pytest.raises(KeyboardInterrupt), interruptible(job):
        job.fit(module, Batches())
    assert validated.steps == [steps]
    assert saved(tmp_path)["global_step"] == steps

    again, validated = Slow(), Validated()
    job = trainer(tmp_path, validated, limit_train_batches=steps)
    job.fit(again, Batches(), ckpt_path=tmp_path / "last.ckpt")
    assert validated.steps == [2 * steps]
    assert job.global_step == 2 * steps and float(again.weight.detach()) == 2 * steps


def test_a_second_ctrl_c_stops_at_once_and_keeps_the_older_checkpoint(tmp_path):
    module = Slow()
    module.interrupt_at, module.signals = 4, 2
    job = trainer(tmp_path, checkpoint(tmp_path, every_n_epochs=1, save_on_train_epoch_end=True))
    with pytest.raises(KeyboardInterrupt), interruptible(job):
        job.fit(module, Batches())
    assert saved(tmp_path)["global_step"] == 3


@pytest.mark.parametrize(
    ("processes", "error", "saves"),
    [
        (1, ValueError(), True),
        (1, KeyboardInterrupt(), False),
        (1, StoppedBetweenSteps(), True),
        (2, ValueError(), False),  # the others would not come to write a checkpoint with it
        (2, KeyboardInterrupt(), False),
        (2, StoppedBetweenSteps(), True),
    ],
)
def test_a_checkpoint_is_written_on_an_error_where_all_processes_write_it(tmp_path, processes, error, saves):
    callback = checkpoint(tmp_path)
    job = SimpleNamespace(world_size=processes, checkpoint_callbacks=[callback])
    GracefulStop().on_exception(job, Slow(), error)
    assert callback.save_on_exception is saves


def test_the_work_of_all_processes_counts(tmp_path):
    """As it would be where every process of three has done the same."""

    class Three(Throughput):
        def on_train_epoch_end(self, trainer, pl_module):
            reduce = lambda counts, reduce_op: {"sum": 3 * counts}[reduce_op]  # noqa: E731
            job = SimpleNamespace(world_size=3, strategy=SimpleNamespace(root_device="cpu", reduce=reduce))
            super().on_train_epoch_end(job, pl_module)

    throughput = Three()
    trainer(tmp_path, throughput).fit(Slow(), Batches())
    assert (throughput.total.sequences, throughput.total.events, throughput.total.slots) == (3 * 16, 3 * 44, 3 * 62)
    assert throughput.total.seconds > 6 * STEP_S
    assert throughput.total.seconds < 6 * STEP_S + 1


def test_seconds_of_an_epoch_that_is_resumed_in_its_middle(tmp_path):
    trainer(tmp_path, checkpoint(tmp_path, every_n_train_steps=1), max_steps=2).fit(Slow(), Batches())
    lines = io.StringIO()
    job = trainer(tmp_path, EpochLines("val/x", lines), max_epochs=1)
    job.fit(Slow(), Batches(), ckpt_path=tmp_path / "last.ckpt")
    (found,) = re.findall(r"^epoch 1/1 .* ([\d.]+) s$", lines.getvalue(), re.MULTILINE)
    assert float(found) < 2


def test_other_errors_and_exits_pass_through(tmp_path):
    job = trainer(tmp_path)
    with pytest.raises(ZeroDivisionError), interruptible(job):
        1 / 0  # noqa: B018
    with pytest.raises(SystemExit) as end, interruptible(job):
        sys.exit(3)
    assert end.value.code == 3


def test_ctrl_c_after_the_last_step_stops_what_follows(tmp_path):
    class Late(L.Callback):
        def on_train_epoch_end(self, trainer, pl_module):
            os.kill(os.getpid(), signal.SIGINT)

    job = trainer(tmp_path, Late(), checkpoint(tmp_path, every_n_epochs=1), max_epochs=1)
    with pytest.raises(KeyboardInterrupt), interruptible(job):
        job.fit(Slow(), Batches())
    assert saved(tmp_path)["global_step"] == 3
