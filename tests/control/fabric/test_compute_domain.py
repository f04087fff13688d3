"""The status of a ComputeDomain from its cliques; who has which index."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kubarium.cluster.file import ClusterFile, NodePool
from kubarium.cluster.nodes import has_fabric, node_configs
from kubarium.control.fabric.compute_domain import domain_nodes, global_status
from kubarium.node.drivers.domains import free_index


def clique(name, *daemons):
    return {
        "daemons": [
            {
                "nodeName": node,
                "ipAddress": "127.0.0.1",
                "cliqueID": name,
                "index": index,
                "status": "Ready" if ready else "NotReady",
            }
            for node, index, ready in daemons
        ]
    }


@pytest.mark.parametrize(
    ("wanted", "daemons", "status"),
    [
        (0, [], "Ready"),
        (2, [("a", 0, True)], "NotReady"),
        (2, [("a", 0, True), ("b", 1, True)], "Ready"),
        (2, [("a", 0, True), ("b", 1, True), ("c", 2, False)], "NotReady"),
        (1, [("a", 0, True), ("b", 1, True)], "Ready"),
        (0, [("a", 0, False)], "NotReady"),
    ],
)
def test_a_domain_is_ready_when_enough_nodes_are_there_and_all_of_them_are(wanted, daemons, status):
    nodes = domain_nodes([clique("c.0", *daemons)])
    assert global_status({"numNodes": wanted}, nodes) == status


def test_nodes_are_listed_by_clique_and_index():
    cliques = [clique("b.0", ("z", 1, True), ("y", 0, True)), clique("a.0", ("x", 0, False))]
    assert [(n["name"], n["cliqueID"], n["index"]) for n in domain_nodes(cliques)] == [
        ("x", "a.0", 0),
        ("y", "b.0", 0),
        ("z", "b.0", 1),
    ]


@given(st.lists(st.integers(0, 5)))
def test_an_index_is_the_lowest_that_is_free_whoever_comes_and_goes(moves):
    """Each number is a node that joins, or leaves if it is in."""
    daemons = []
    for node in moves:
        inside = next((d for d in daemons if d["nodeName"] == node), None)
        if inside is not None:
            daemons.remove(inside)
            continue
        index = free_index(daemons)
        taken = {d["index"] for d in daemons}
        assert index not in taken
        assert set(range(index)) <= taken
        daemons.append({"nodeName": node, "index": index})


@pytest.mark.parametrize(
    ("devices", "cliques"),
    [
        ([{"profile": "nvidia", "model": "GB200", "count": 4}], [18, 18, 4]),
        ([{"profile": "nvidia", "model": "H100", "nvlinkNodes": 8}], [8] * 5),
        ([{"profile": "nvidia", "model": "GB200", "nvlinkNodes": 0}], []),
        ([{"profile": "nvidia", "model": "H100"}], []),
    ],
)
def test_neighbours_are_joined_as_in_a_rack(devices, cliques):
    pools = [NodePool("tray", 40, "simulated", devices=devices)]
    (config,) = node_configs(ClusterFile(pools), None, "", 0, "")
    found = {}
    for spec in config.nodes:
        label = spec.labels.get("nvidia.com/gpu.clique")
        if label:
            found[label] = found.get(label, 0) + 1
    assert list(found.values()) == cliques
    assert has_fabric(pools) == bool(cliques)
    drivers = {device.profile for spec in config.nodes for device in spec.devices}
    assert ("compute-domain" in drivers) == bool(cliques)
