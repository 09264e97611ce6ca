"""Training: the LightningModule, the DataModule, optimizers, callbacks, the job."""
