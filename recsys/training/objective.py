"""What a step minimises: a retrieval loss over sampled negatives or over the whole catalogue."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from recsys.features.batch import SequenceBatch
from recsys.features.catalogue import Catalogue
from recsys.features.negatives import NegativeSampler, Uniform
from recsys.losses.base import CatalogueLoss, LossOutput, SampledLoss, SampledScores
from recsys.losses.info_nce import InfoNCE
from recsys.models.network import SequenceNetwork


class RetrievalObjective(nn.Module):
    """Next-item retrieval: the query after each event is matched with the item that followed.

    Args:
        loss: over sampled negatives or over the whole catalogue.
        negatives: the sampler; unused by losses over the whole catalogue.
    """

    def __init__(self, loss: SampledLoss | CatalogueLoss | None = None, negatives: NegativeSampler | None = None):
        super().__init__()
        self.loss = loss if loss is not None else InfoNCE(temperature=0.05)
        self.negatives = negatives if negatives is not None else Uniform(512)

    def setup(self, catalogue: Catalogue, seed: int, device: torch.device) -> None:
        """Fits sampler and loss to the catalogue; called once before training."""
        self.loss.setup(catalogue.n_items)
        self.negatives.setup(catalogue.n_items, catalogue.counts, seed, device)

    def forward(self, network: SequenceNetwork, batch: SequenceBatch) -> LossOutput:
        """The loss of one batch."""
        assert batch.target is not None, "training batches carry targets"
        if isinstance(self.loss, CatalogueLoss):
            queries, items = network(batch, None)
            return self.loss(queries, items, batch.target)
        drawn = self.negatives.sample(batch.target)
        rows = batch.target.shape[0]
        queries, vectors = network(batch, torch.cat([batch.target, drawn.ids.flatten()]))
        positive, negative = vectors[:rows], vectors[rows:]
        return self.loss(
            SampledScores(
                positive=(queries * positive).sum(-1),
                negative=_scores(queries, negative, drawn.ids),
                log_q_positive=drawn.log_q_positive,
                log_q_negative=drawn.log_q,
                hits=drawn.hits(batch.target),
            )
        )


def _scores(queries: Tensor, negative: Tensor, ids: Tensor) -> Tensor:
    """`[T, N]` scores of shared (`ids` `[N]`) or per-row (`ids` `[T, N]`) negatives."""
    if ids.dim() == 1:
        return queries @ negative.T
    return torch.bmm(negative.unflatten(0, (ids.shape[0], ids.shape[1])), queries.unsqueeze(-1)).squeeze(-1)
