"""A process that trains like `recsys fit` and, when told to, is killed after a step without a chance to clean up."""

import os
import signal
import sys

import lightning as L

from recsys.cli.fit_job import FitCLI, train


class DieAfter(L.Callback):
    def __init__(self, steps: int):
        self.steps = steps

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        if trainer.global_step == self.steps:
            os.kill(os.getpid(), signal.SIGKILL)


if __name__ == "__main__":
    cli = FitCLI(sys.argv[1:])
    if "DIE_AFTER" in os.environ:
        cli.trainer.callbacks.append(DieAfter(int(os.environ["DIE_AFTER"])))
    train(cli)
