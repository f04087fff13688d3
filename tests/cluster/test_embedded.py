"""The wiring: what is said when its parts do not come up."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace

import pytest

from kubarium.api.kinds import CONFIG_MAPS, NODES, PODS
from kubarium.api.logs import LogOptions
from kubarium.api.streams import StreamOptions
from kubarium.base.chance import Chance
from kubarium.base.errors import ApiError, ConfigError
from kubarium.cluster import embedded, network, scheduler_config
from kubarium.cluster.embedded import EmbeddedCluster
from kubarium.cluster.file import ClusterFile, NodePool
from kubarium.runtime.virtual import VirtualClock, run
from kubarium.store import MemoryStore
from kubarium.testing.cluster import run_virtual
from kubarium.view.profiles import Profiles
from kubarium.view.scheduling import SchedulerConfig, read_config


def test_nodes_that_are_not_announced_are_waited_for_and_the_machines_load_is_named(tmp_path):
    async def main():
        clock = VirtualClock()
        file = ClusterFile([NodePool("node", 2, "simulated")])
        cluster = EmbeddedCluster(file, clock, Chance(0), MemoryStore(), tmp_path)
        ready = asyncio.Event()
        cluster.agents = [SimpleNamespace(ready=ready)]
        cluster._failed = asyncio.get_running_loop().create_future()
        waiting = asyncio.ensure_future(cluster._wait_for_nodes())
        await clock.sleep(30)
        assert not waiting.done(), "a busy machine gets its time"
        with pytest.raises(ConfigError, match=r"not announced within 40 s.*too busy \(.*try again"):
            await waiting

    run(main())


def test_the_schedulers_configuration_is_told_and_what_it_was_is_not():
    config = read_config(
        {"profiles": [{"schedulerName": "batch"}, {"schedulerName": "default-scheduler"}]}
    )
    file = ClusterFile([NodePool("node", 1, "simulated")], scheduler=config)

    async def published(cluster):
        return (await cluster.client.list(CONFIG_MAPS, "kube-system")).items

    async def story(cluster):
        assert Profiles(await published(cluster)).names == ("batch", "default-scheduler")
        other = read_config({"profiles": [{"schedulerName": "other"}]})
        await scheduler_config.publish(cluster.client, other)
        assert Profiles(await published(cluster)).names == ("other",)
        await scheduler_config.publish(cluster.client, SchedulerConfig())
        names = [document["metadata"]["name"] for document in await published(cluster)]
        assert "kube-scheduler" not in names

    run_virtual(story, file=file)


def test_a_node_without_an_agent_does_not_answer_as_one_without_a_kubelet():
    file = ClusterFile([NodePool("node", 1, "simulated")])

    async def told(awaitable):
        with pytest.raises(ApiError) as caught:
            await awaitable
        return caught.value.code, caught.value.message

    async def story(tested):
        cluster = tested.embedded

        async def log():
            async for _ in cluster.logs("default", "p", LogOptions("c")):
                raise AssertionError("nobody is there to say anything")

        await cluster.client.create(NODES, {"metadata": {"name": "bare"}})
        spec = {"nodeName": "bare", "containers": [{"name": "c", "image": "busybox"}]}
        await cluster.client.create(PODS, {"metadata": {"name": "p"}, "spec": spec}, "default")
        unknown = (500, "no preferred addresses found; known addresses: []")
        assert await told(log()) == unknown
        assert await told(cluster.open_port("default", "p", 80)) == unknown
        status = {"addresses": [{"type": "InternalIP", "address": "192.0.2.1"}]}
        await cluster.client.patch(NODES, "bare", {"status": status}, subresource="status")
        refused = "dial tcp 192.0.2.1:10250: connect: connection refused"
        url = "https://192.0.2.1:10250/containerLogs/default/p/c"
        assert await told(log()) == (500, f'Get "{url}": {refused}')
        text = f"error dialing backend: {refused}"
        assert await told(cluster.open_port("default", "p", 80)) == (500, text)
        options = StreamOptions("c", ("ls",))
        assert await told(cluster.open_session("default", "p", options)) == (500, text)
        await cluster.client.delete(NODES, "bare")
        assert await told(log()) == (404, 'nodes "bare" not found')

    run_virtual(story, file=file)


def test_more_nodes_than_a_pod_network_has_places_for_are_refused_before_anything_starts(
    monkeypatch, tmp_path
):
    choice = network.Choice(network.NetworkPlan(0))
    monkeypatch.setattr(embedded, "choose_network", lambda root, address: choice)

    async def chosen(count):
        pools = [NodePool("a", 200, "process"), NodePool("b", 9999, "simulated")]
        file = ClusterFile([*pools, NodePool("c", count, "process")])
        cluster = EmbeddedCluster(file, VirtualClock(), Chance(0), MemoryStore(), tmp_path)
        return cluster._choose_network()

    assert run(chosen(50)) is choice
    with pytest.raises(ConfigError, match=r"nodePools: at most 250 nodes .* not 251; lower count"):
        run(chosen(51))
