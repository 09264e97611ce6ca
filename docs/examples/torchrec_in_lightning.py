"""TorchRec's sharded tables in a plain LightningModule: `torchrun --nproc-per-node 2 torchrec_in_lightning.py`."""

import os

import lightning as L
import torch
from torch.utils.data import DataLoader, TensorDataset
from torchrec.modules.embedding_configs import EmbeddingConfig
from torchrec.modules.embedding_modules import EmbeddingCollection
from torchrec.sparse.jagged_tensor import KeyedJaggedTensor

from recsys.models.tables import table_device
from recsys.training.row_wise_adagrad import RowWiseAdagrad
from recsys.training.table_optimizers import dense_parameters, step_in_backward
from recsys.training.torchrec_strategy import TorchRecStrategy


class Ratings(L.LightningModule):
    """What a user thinks of an item: a linear map of the product of their vectors."""

    def configure_model(self):
        if not hasattr(self, "tables"):  # Lightning calls this more than once
            sizes = {"user": 1000, "item": 2000}
            configs = [EmbeddingConfig(rows, 16, name=name, feature_names=[name]) for name, rows in sizes.items()]
            self.tables = EmbeddingCollection(tables=configs, device=table_device())  # shapes, until they are sharded
            self.line = torch.nn.Linear(16, 1)
            step_in_backward(self.tables, lambda rows: RowWiseAdagrad(rows, lr=0.1))

    def training_step(self, batch, _):
        user, item, rating = batch
        one_each = torch.ones(2 * len(user), dtype=torch.int32, device=user.device)
        ids = KeyedJaggedTensor(keys=["user", "item"], values=torch.cat([user, item]), lengths=one_each)
        found = self.tables(ids)
        loss = (self.line(found["user"].values() * found["item"].values()).squeeze(1) - rating).square().mean()
        self.log("loss", loss, on_step=False, on_epoch=True, sync_dist=True)
        return loss

    def configure_optimizers(self):
        return torch.optim.Adam(dense_parameters(self), lr=0.01)


if __name__ == "__main__":
    random = torch.Generator().manual_seed(0)
    user, item = (torch.randint(rows, (20_000,), generator=random) for rows in (1000, 2000))
    data = DataLoader(TensorDataset(user, item, (user + item).remainder(2).float()), batch_size=100, shuffle=True)
    local = int(os.environ.get("LOCAL_WORLD_SIZE", 1))
    nodes = int(os.environ.get("WORLD_SIZE", 1)) // local
    trainer = L.Trainer(max_epochs=5, devices=local, num_nodes=nodes, strategy=TorchRecStrategy(), logger=False)
    trainer.fit(Ratings(), data)
    trainer.print(f"loss {trainer.callback_metrics['loss']:.4f} on {trainer.world_size} ranks")
