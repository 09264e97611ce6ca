"""The network of one process, from a checkpoint of any number of ranks, and the memory that it takes."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import psutil
import torch
from torch import Tensor, nn

from recsys.features.catalogue import Catalogue
from recsys.models.tables import tables_on
from recsys.models.trainable import TrainableNetwork
from recsys.training.module import RecommenderModule
from recsys.training.sharded_checkpoint import CheckpointError, consolidate, is_sharded, load_replicated, settle
from recsys.training.table_optimizers import collections

GIB = 2**30


def load_checkpoint(path: Path) -> dict[str, Any]:
    """What a checkpoint of either kind holds beside sharded tables.

    Raises:
        CheckpointError: there is none.
    """
    if settle(path).is_dir():
        return load_replicated(path)
    if not path.exists():
        raise CheckpointError(f"{path}: no checkpoint there")
    try:
        loaded: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except (RuntimeError, OSError, pickle.UnpicklingError) as error:
        raise CheckpointError(f"{path}: no checkpoint, or a damaged one ({str(error).splitlines()[0]})") from error
    return loaded


def load_weights(path: Path) -> dict[str, Tensor]:
    """The `state_dict` of the module in a checkpoint of either kind, tables whole.

    Raises:
        CheckpointError: there is none.
    """
    if is_sharded(path):
        return consolidate(path)
    weights: dict[str, Tensor] = load_checkpoint(path)["state_dict"]
    return weights


def network_on_meta(module: RecommenderModule, catalogue: Catalogue) -> TrainableNetwork:
    """The network of a job, its tables shapes alone; the random numbers of the job are left where they are."""
    with tables_on("meta"), torch.random.fork_rng(devices=[]):
        return module.make_network(catalogue)


def whole_network(module: RecommenderModule, catalogue: Catalogue, path: Path) -> TrainableNetwork:
    """The network of a job with the weights of a checkpoint, tables whole, on the CPU; needs no process group.

    Tables are in memory once.

    Args:
        module: knows how the network is made.
        catalogue: of the data.
        path: of the checkpoint, of either kind.

    Raises:
        CheckpointError: there is none, or it is of another network.
    """
    network = network_on_meta(module, catalogue)
    own = {n.removeprefix("network."): w for n, w in load_weights(path).items() if n.startswith("network.")}
    try:
        network.load_state_dict(own, assign=True)
    except RuntimeError as error:
        raise CheckpointError(f"{path}: was saved from another network or other data ({error})") from error
    return network.eval()


def table_gib(network: nn.Module) -> float:
    """GiB of the TorchRec tables of a network, on any device."""
    tables = (weight for _, part in collections(network) for weight in part.parameters())
    return sum(weight.numel() * weight.element_size() for weight in tables) / GIB


def free_gib() -> float:
    """GiB of this machine's memory that nobody uses."""
    return psutil.virtual_memory().available / GIB
