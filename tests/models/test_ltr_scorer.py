from __future__ import annotations

import pytest
import torch

from recsys.models.ltr_scorer import PointwiseScorer


def test_each_document_is_scored_by_itself() -> None:
    scorer, features = PointwiseScorer(4), torch.randn(3, 5, 4, generator=torch.Generator().manual_seed(0))
    scores = scorer(features)
    for row in range(3):
        for column in range(5):
            torch.testing.assert_close(scorer(features[row, column]), scores[row, column])


def test_scores_have_no_bound_below() -> None:
    """An activation such as ELU at the end would keep them above -1."""
    scorer = PointwiseScorer(2)
    with torch.no_grad():
        scorer.layers[-1].bias.fill_(-50.0)
    assert (scorer(torch.zeros(1, 3, 2)) < -40).all()


def test_standardised_features_are_centred_and_saved_with_the_weights() -> None:
    features = torch.tensor([[10.0, 3.0], [14.0, 3.0]])
    scorer = PointwiseScorer(2, hidden=())
    scorer.standardise(features.mean(0), features.std(0, correction=0))
    plain = PointwiseScorer(2, hidden=())
    plain.load_state_dict({name: scorer.state_dict()[name] for name in plain.state_dict()})
    assert torch.equal(plain(features), scorer(features))
    plain.standardise(torch.zeros(2), torch.ones(2))
    torch.testing.assert_close(plain(torch.tensor([[-1.0, 0.0], [1.0, 0.0]])), scorer(features))


def test_linear_without_hidden_layers_and_sizes_are_checked() -> None:
    assert sum(w.numel() for w in PointwiseScorer(3, hidden=()).parameters()) == 4
    for arguments in ((0, (4,)), (3, (0,))):
        with pytest.raises(ValueError, match="at least 1"):
            PointwiseScorer(*arguments)
