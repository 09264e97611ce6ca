"""What is easily done wrong with masked features and the softmax over a batch, and the tests that see it.

| mistake | tests |
| --- | --- |
| contrasting the items of the task's batch, which are the popular ones | tests/training/test_feature_masking.py::test_items_are_uniform_over_the_catalogue_whatever_the_task_trains_on |
| leaving the seed of a mask visible where what goes with it is hidden | tests/features/test_masking.py::test_the_seed_the_id_and_the_most_related_are_hidden_in_the_first_view |
| views that share a feature, by which they are matched | tests/features/test_masking.py::test_one_view_hides_what_the_other_shows, tests/training/test_masking_pitfalls.py::test_a_shared_feature_is_a_shortcut, tests/training/test_feature_masking.py::test_starts_near_the_log_of_the_items |
| correcting by frequency with the wrong sign, of negatives alone, or divided by the temperature | tests/training/test_batch_softmax.py::test_equal_vectors_leave_one_over_the_frequency, tests/training/test_batch_softmax.py::test_it_is_the_softmax_of_the_source |
| mixing negatives of several sources, each corrected as if it were the only one | tests/losses/test_info_nce.py::test_the_corrected_loss_converges_to_the_full_softmax, tests/features/test_negatives.py::test_expected_counts_of_a_row_are_those_observed |
| counting duplicates of the positive as negatives | tests/training/test_batch_softmax.py::test_equal_vectors_leave_one_over_the_frequency, tests/features/test_negatives.py::test_hits_are_those_of_a_comparison |
| zeros in place of what is hidden | tests/models/test_item_views.py::test_hidden_features_show_their_default_vectors, tests/training/test_feature_masking.py::test_what_both_views_hide_is_not_trained |
| training by cosine and serving by another product | tests/models/test_two_tower.py::test_serving_compares_what_training_did, tests/cli/test_two_tower.py::test_users_are_recommended_what_the_vectors_say |
| judging all items together, of which the popular ones decide | tests/evaluation/test_slices.py::test_slices_by_events_are_those_of_a_loop, tests/evaluation/test_slices.py::test_the_cold_slice_is_the_recall_of_items_that_training_does_not_know, tests/models/test_item_views.py::test_ids_of_items_without_training_events_are_hidden |
| comparing weights of the term at different numbers of items | tests/losses/test_view_contrast.py::test_views_that_tell_nothing_start_at_the_log_of_their_number |
| decay that shrinks rows of rare values in every step | tests/training/test_masking_pitfalls.py::test_no_step_changes_rows_that_it_did_not_look_up, tests/training/test_optimizers.py::test_rows_that_were_not_looked_up_do_not_change |
| a mask for each item, by which items are told apart | tests/training/test_masking_pitfalls.py::test_all_items_of_a_step_show_the_same_features |
"""  # noqa: E501 - the lines of a table

from __future__ import annotations

import math
import re
from dataclasses import replace
from functools import partial
from pathlib import Path

import lightning as L
import pytest
import torch
from torch import Tensor

from recsys.features.masking import CorrelatedMasking, FeatureMasking, RandomMasking, View
from recsys.features.negatives import InBatch
from recsys.losses.info_nce import InfoNCE
from recsys.models.two_tower import TwoTower
from recsys.training.auxiliary import WithAuxiliary
from recsys.training.feature_masking import FeatureMaskingSSL
from recsys.training.module import RecommenderModule, adam
from recsys.training.objective import RetrievalObjective
from tests.distributed.jobs import log_data, write_log
from tests.training.test_feature_masking import Fixed, catalogue, ssl

ROOT = Path(__file__).parents[2]


def test_the_table_names_tests_that_exist() -> None:
    _, _, *mistakes = re.findall(r"^\| .*$", str(__doc__), re.MULTILINE)
    assert len(mistakes) == 12
    for mistake in mistakes:
        named = re.findall(r"(tests/[\w/]+\.py)::(\w+)", mistake)
        assert named, mistake
        for file, test in named:
            assert f"def {test}(" in (ROOT / file).read_text(encoding="utf-8"), f"{file}::{test}"


def test_a_shared_feature_is_a_shortcut() -> None:
    """The loss of views that both show the id vanishes in a few steps, that of complementary ones does not."""
    one, other = frozenset({"brand", "shelf", "price"}), frozenset({"words", "tags", "price"})
    start = math.log(100)
    assert losses(Fixed(View(one), View(other)))[-1] < 0.2 * start
    for masking in (RandomMasking(), CorrelatedMasking()):
        assert sum(losses(masking)[-5:]) / 5 > 0.7 * start


def losses(masking: FeatureMasking) -> list[float]:
    """Of a tower of 100 items that learns nothing else."""
    of = catalogue(100)
    torch.manual_seed(0)
    network, term = TwoTower(of, width=16, hidden=(), dim=16, maskable=True), ssl(of, masking, n=100)
    tables = [weight for name, weight in network.items.named_parameters() if "embedding" in name]
    dense = [weight for name, weight in network.items.named_parameters() if "embedding" not in name]
    optimizers = [torch.optim.Adam(dense, lr=0.01), torch.optim.SparseAdam(tables, lr=0.01)]
    found = []
    for _ in range(25):
        loss = term(network).loss
        loss.backward()
        for optimizer in optimizers:
            optimizer.step()
            optimizer.zero_grad()
        found.append(loss.item())
    return found


@pytest.mark.parametrize("masking", [RandomMasking(value_dropout=0.0), CorrelatedMasking(value_dropout=0.0)])
def test_all_items_of_a_step_show_the_same_features(masking: FeatureMasking) -> None:
    """Items that are alike but for their id look alike wherever it is hidden."""
    of = catalogue(40)
    first = {name: values[: offsets[2]] for name, (values, offsets) in of.jagged.items()}
    alike = {name: (v.repeat(40), len(v) * torch.arange(-1, 41).clamp(min=0)) for name, v in first.items()}
    network = TwoTower(
        replace(of, jagged=alike, numeric={"price": torch.ones(41)}), width=8, hidden=(), dim=8, maskable=True
    )
    masking.setup(of, 0)
    ids, seen = torch.arange(1, 41), set()
    for _ in range(20):
        pair = masking.draw()
        for view, vectors in zip(pair, network.items.views(ids, pair, masking.generator), strict=True):
            seen.add(view.hidden)
            assert torch.allclose(vectors, vectors[:1].expand_as(vectors), atol=1e-5) == ("item_id" in view.hidden)
    assert len(seen) > 4  # another step shows others


class Rows(L.Callback):
    """Rows of tables whose gradient is not 0, and those that changed, in the first step."""

    def __init__(self) -> None:
        self.before: dict[str, Tensor] = {}
        self.with_gradient: dict[str, Tensor] = {}
        self.changed: dict[str, Tensor] = {}

    def on_before_optimizer_step(self, trainer: L.Trainer, module: L.LightningModule, optimizer: object) -> None:
        for name, weight in tables_of(module):
            assert weight.grad is not None
            self.before[name] = weight.detach().clone()
            self.with_gradient[name] = weight.grad.to_dense().any(dim=1)

    def on_train_batch_end(self, trainer: L.Trainer, module: L.LightningModule, *_: object) -> None:
        self.changed = {name: (weight != self.before[name]).any(dim=1) for name, weight in tables_of(module)}


def tables_of(module: L.LightningModule) -> list[tuple[str, Tensor]]:
    return [(name, weight) for name, weight in module.named_parameters() if "embedding" in name]


@pytest.mark.filterwarnings("ignore")
def test_no_step_changes_rows_that_it_did_not_look_up(tmp_path: Path) -> None:
    """With decay of the dense weights, and a term that looks up a few items beside those of the task."""
    write_log(tmp_path)
    main = RetrievalObjective(InfoNCE(0.07), InBatch())
    module = RecommenderModule(
        partial(TwoTower, width=16, hidden=(16,), dim=16, maskable=True),
        WithAuxiliary(main, [FeatureMaskingSSL(n=4)]),
        optimizer=partial(torch.optim.AdamW, weight_decay=0.1),
    )
    rows = Rows()
    trainer = L.Trainer(
        accelerator="cpu", max_steps=1, logger=False, enable_progress_bar=False, enable_model_summary=False,
        enable_checkpointing=False, callbacks=[rows], use_distributed_sampler=False,
    )  # fmt: skip
    trainer.fit(module, datamodule=log_data(tmp_path, batch_size=1))
    assert len(rows.changed) == 3
    for name, changed in rows.changed.items():
        assert torch.equal(changed, rows.with_gradient[name]) and changed.any() and not changed.all()
    assert adam([torch.zeros(1, requires_grad=True)]).defaults["weight_decay"] == 0.0
