"""A process that trains like `recsys fit` and waits after the epochs WAIT_AT for a file in FOLDER."""

import os
import sys
import time
from pathlib import Path

import lightning as L

from recsys.cli.fit_job import FitCLI, run


class WaitAt(L.Callback):
    def __init__(self, epochs: set[int], folder: Path):
        self.epochs, self.folder = epochs, folder

    def on_train_epoch_end(self, trainer, pl_module):
        if trainer.current_epoch in self.epochs:
            (self.folder / f"at{trainer.current_epoch}").touch()
            while not (self.folder / f"go{trainer.current_epoch}").exists():
                time.sleep(0.05)


if __name__ == "__main__":
    cli = FitCLI(sys.argv[1:])
    epochs = {int(epoch) for epoch in os.environ["WAIT_AT"].split(",")}
    cli.trainer.callbacks.append(WaitAt(epochs, Path(os.environ["FOLDER"])))
    run(cli)
