"""What a trainer and a launch may not be set to; the refusals of whole jobs are in tests/distributed."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml
from jsonargparse import ArgumentParser
from lightning.pytorch.strategies import Strategy

from recsys.training.sharding_plan import TableRule, Topology
from recsys.training.strategy_checks import StrategyError, check_restarts, unusual
from recsys.training.torchrec_strategy import TorchRecStrategy


def test_restarts_that_would_not_find_each_other_are_refused() -> None:
    elastic = {"TORCHELASTIC_USE_AGENT_STORE": "True", "TORCHELASTIC_MAX_RESTARTS": "2"}
    with pytest.raises(StrategyError, match="set TORCH_DISABLE_SHARE_RDZV_TCP_STORE=1"):
        check_restarts(elastic)
    check_restarts({})
    check_restarts(elastic | {"TORCHELASTIC_MAX_RESTARTS": "0"})
    check_restarts(elastic | {"TORCHELASTIC_USE_AGENT_STORE": "False"})


def test_settings_that_are_as_ever_are_left_out() -> None:
    assert unusual({"bucket_cap_mb": None, "check_reduction": False}) == {}
    assert unusual({"bucket_cap_mb": 5, "nobody_knows": None}) == {"bucket_cap_mb": 5, "nobody_knows": None}


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of jsonargparse: the name that older ones know
def test_yaml_selects_it(tmp_path: Path) -> None:
    arguments = {
        "rules": {"item_id": {"sharding": ["row_wise"]}},
        "topology": {"memory_gib": 4.0},
        "async_checkpoint": True,
    }
    chosen = {"class_path": "recsys.training.torchrec_strategy.TorchRecStrategy", "init_args": arguments}
    (tmp_path / "job.yaml").write_text(yaml.safe_dump({"strategy": chosen}))
    parser = ArgumentParser()
    parser.add_subclass_arguments(Strategy, "strategy")
    parser.add_argument("--config", action="config")
    strategy = parser.instantiate_classes(parser.parse_args(["--config", str(tmp_path / "job.yaml")])).strategy
    assert isinstance(strategy, TorchRecStrategy)
    assert strategy.rules == {"item_id": TableRule(sharding=["row_wise"])}
    assert strategy.topology == Topology(memory_gib=4.0)
    assert strategy.async_checkpoint and unusual(strategy._ddp_kwargs) == {}
