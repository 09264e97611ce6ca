"""Topologies and rules: what they refuse, and what TorchRec gets of them."""

import pytest
from jsonargparse import ArgumentParser

from recsys.training.topology import GIB, PlanError, TableRule, Topology


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"ranks": 0}, "ranks: 0; a job has at least one"),
        ({"ranks": 6, "ranks_per_host": 4}, "ranks_per_host: 4 does not divide the 6 ranks"),
        ({"ranks": 2, "ranks_per_host": 4}, "ranks_per_host: 4 does not divide the 2 ranks"),
        ({"ranks": 256, "device": "cuda"}, "no machine has 256 GPUs"),
        ({"device": "tpu"}, "device: `tpu`"),
        ({"memory_gib": 0}, "memory_gib: 0; it must be above 0"),
        ({"host_memory_gib": -64}, "host_memory_gib: -64; it must be above 0"),
        ({"reserve": 1.0}, "reserve: 1.0 is no share"),
        ({"inter_host_bandwidth": -1}, "inter_host_bandwidth: -1; it must be above 0"),
    ],
)
def test_a_topology_that_cannot_be_is_refused(given, message):
    with pytest.raises(PlanError) as error:
        Topology(**given)
    assert message in str(error.value)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"sharding": ["by_row"]}, "sharding: ['by_row']; give a list of"),
        ({"sharding": "row_wise"}, "sharding: 'row_wise'; give a list of"),
        ({"sharding": []}, "sharding: []; give a list of"),
        ({"placement": ["disk"]}, "placement: ['disk']; give a list of device, host, cached"),
        ({"cache_load_factor": 1.5}, "cache_load_factor: 1.5"),
        ({"min_partition": 6}, "min_partition: 6; kernels take multiples of 4"),
        ({"pooling_factor": 0}, "pooling_factor: 0"),
    ],
)
def test_a_rule_that_cannot_be_is_refused(given, message):
    with pytest.raises(PlanError) as error:
        TableRule(**given)
    assert message in str(error.value)


def test_memory_is_what_is_given_or_torchrec_s_default():
    assert Topology().memory == 128 * GIB
    assert Topology(device="cuda").memory == 32 * GIB
    assert Topology(device="cuda").host_memory == 128 * GIB
    assert Topology().host_memory == Topology(host_memory_gib=64).host_memory == 0
    assert Topology(memory_gib=2.5).memory == 2.5 * GIB


def test_tables_get_what_is_left_of_reserve_and_model():
    assert Topology(memory_gib=10).for_tables(dense=GIB) == int(8.5 * GIB) - GIB
    assert Topology(memory_gib=1, reserve=0).for_tables(dense=2 * GIB) == 0


def test_torchrec_gets_memory_and_bandwidths_in_its_units():
    topology = Topology(
        ranks=4, ranks_per_host=2, device="cuda", memory_gib=80, host_memory_gib=100, reserve=0, device_bandwidth=2000
    ).torchrec(dense=GIB)
    assert (topology.world_size, topology.local_world_size, topology.compute_device) == (4, 2, "cuda")
    assert [(device.storage.hbm, device.storage.ddr) for device in topology.devices] == [(79 * GIB, 100 * GIB)] * 4
    assert topology.hbm_mem_bw == 2000 * GIB / 1000
    assert topology.inter_host_bw == pytest.approx(12.5 * GIB / 1000)
    cpu = Topology(memory_gib=2, reserve=0.5).torchrec()
    assert (cpu.devices[0].storage.hbm, cpu.devices[0].storage.ddr) == (0, GIB)


def test_both_are_read_from_yaml():
    parser = ArgumentParser()
    parser.add_argument("--topology", type=Topology)
    parser.add_argument("--rules", type=dict[str, TableRule])
    text = "{item_id: {sharding: [row_wise], min_partition: 32}}"
    given = parser.instantiate(parser.parse_args(["--topology", "{ranks: 8, memory_gib: 4}", "--rules", text]))
    assert given.topology == Topology(ranks=8, memory_gib=4)
    assert given.rules == {"item_id": TableRule(sharding=["row_wise"], min_partition=32)}
