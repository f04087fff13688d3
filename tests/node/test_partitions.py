"""Networks broken on purpose, between real pods: silence, also on open connections, and its end."""

from __future__ import annotations

import json

import pytest

from kubarium.api.kinds import NODES, PODS
from kubarium.node.network.trial import refusal

from .test_pod_network import level, network, run  # noqa: F401

pytestmark = pytest.mark.skipif(bool(refusal()), reason=f"no pod networks here: {refusal()}")

# Echoes what it is sent, on any number of connections.
ECHO = """
import socket, threading
def serve(peer):
    while data := peer.recv(99):
        peer.sendall(data)
server = socket.create_server(("0.0.0.0", 7000))
while True:
    threading.Thread(target=serve, args=(server.accept()[0],), daemon=True).start()
"""
# Asks "name=address" in turn, over a connection that stays open and over a new one; prints what
# answers as "name:old name:new ...", one line a round.
TALK = """
import socket, sys, time
targets = dict(t.split("=") for t in sys.argv[1:])
old = {name: socket.create_connection((ip, 7000), 2) for name, ip in targets.items()}
def asks(peer):
    peer.settimeout(0.25)
    peer.sendall(b"?")
    return peer.recv(9)
while True:
    said = []
    for name, ip in targets.items():
        try:
            while asks(old[name]) != b"?": pass
            said.append(name + ":old")
        except OSError: pass
        try:
            with socket.create_connection((ip, 7000), 0.25) as peer: asks(peer)
            said.append(name + ":new")
        except OSError: pass
    print("heard", *said, flush=True)
    time.sleep(0.05)
"""


class Talk:
    def __init__(self, net):
        self.net, self.world = net, net.world

    async def listener(self, name, **spec):
        await self.world.pod(name, f"exec python3 -c '{ECHO}'", **spec)

        async def up():
            pod = await self.world.get(name)
            return (pod.get("status") or {}).get("podIP")

        return await self.world.until(up, f"{name} has an address")

    async def talker(self, **targets):
        pairs = " ".join(f"{name}={ip}" for name, ip in targets.items())
        await self.world.pod("talker", f"sleep 0.5; exec python3 -c '{TALK}' {pairs}")
        await self.world.phase("talker", "Running")
        await self.hears(both(*targets))

    async def hears(self, wanted):
        """Until the talker has heard just ``wanted``, in two rounds after now."""
        before = (await self.world.log("talker")).count("\n")

        async def rounds():
            lines = (await self.world.log("talker")).splitlines()[before + 1 :]
            found = [set(line.split()[1:]) for line in lines]
            return len(found) >= 2 and found[-1] == found[-2] == wanted

        await self.world.until(rounds, f"the talker hears {sorted(wanted)}", 30)

    async def order(self, resource, name, **what):
        given = {"ident": "uid/0", "at": self.world.context.clock.now(), **what}
        patch = {"metadata": {"annotations": {"fault.kubarium.dev/uid": json.dumps(given)}}}
        namespace = "default" if resource is PODS else ""
        await self.world.client.patch(resource, name, patch, namespace)


def both(*names):
    return {f"{name}:{how}" for name in names for how in ("old", "new")}


def test_a_partition_silences_open_connections_too_and_heals(level, tmp_path):  # noqa: F811
    async def main():
        async with network(level, tmp_path) as net:
            talk = Talk(net)
            one = await talk.listener("one", labels={"side": "far"})
            two = await talk.listener("two", nodeName="node-2")
            await talk.talker(one=one, two=two)
            far = {"matchLabels": {"side": "far"}}
            await talk.order(PODS, "talker", action="Partition", peers=far)
            await talk.hears(both("two"))
            assert "Partition of the pod" in await net.world.event("talker", "FaultInjected")
            await talk.order(PODS, "talker", action="Partition", peers=far, healed=True)
            await talk.hears(both("one", "two"))

    run(main)


def test_a_pod_that_is_cut_from_everybody_is_still_probed_by_its_node(level, tmp_path):  # noqa: F811
    async def main():
        async with network(level, tmp_path) as net:
            talk = Talk(net)
            probe = {"tcpSocket": {"port": 7000}, "periodSeconds": 1, "failureThreshold": 1}
            one = await talk.listener("one", container={"readinessProbe": probe})
            two = await talk.listener("two")
            await talk.talker(one=one, two=two)
            await talk.order(PODS, "one", action="Partition")
            await talk.hears(both("two"))
            await net.world.context.clock.sleep(2.5)
            conditions = (await net.world.get("one"))["status"]["conditions"]
            assert {"Ready": "True"}.items() <= {c["type"]: c["status"] for c in conditions}.items()
            assert (await net.ask("asker", f"{one}:7000"))[f"{one}:7000"] == "TimeoutError"
            await talk.order(PODS, "one", action="Partition", healed=True)
            await talk.hears(both("one", "two"))

    run(main)


def test_nodes_that_are_apart_keep_what_is_inside_each(level, tmp_path):  # noqa: F811
    async def main():
        async with network(level, tmp_path) as net:
            talk = Talk(net)
            one = await talk.listener("one")
            two = await talk.listener("two", nodeName="node-2")
            await talk.talker(one=one, two=two)
            await talk.order(NODES, "node-2", action="PartitionNode")
            await talk.hears(both("one"))
            # A pod that comes later is on its node's side.
            three = await talk.listener("three", nodeName="node-2")
            assert (await net.ask("asker", f"{three}:7000"))[f"{three}:7000"] == "TimeoutError"
            gone = {"metadata": {"annotations": {"fault.kubarium.dev/uid": None}}}
            await net.world.client.patch(NODES, "node-2", gone, "")
            await talk.hears(both("one", "two"))

    run(main)


def test_of_lossy_packets_some_arrive(level, tmp_path):  # noqa: F811
    """A probe of one packet each way: with half of them lost, some are heard and some are not."""

    async def main():
        async with network(level, tmp_path) as net:
            talk = Talk(net)
            one = await talk.listener("one")
            await talk.talker(one=one)
            await talk.order(PODS, "one", action="Loss", amount=0.5)
            await net.world.context.clock.sleep(0.2)
            start = (await net.world.log("talker")).count("\n")

            async def mixed():
                lines = (await net.world.log("talker")).splitlines()[start:]
                return any("one" in line for line in lines) and any(
                    "one:new" not in line for line in lines
                )

            await net.world.until(mixed, "some rounds heard, some not", 30)
            await talk.order(PODS, "one", action="Loss", amount=0.5, healed=True)
            await talk.hears(both("one"))

    run(main)


def test_a_delay_is_made_or_said_to_be_impossible(level, tmp_path):  # noqa: F811
    async def main():
        async with network(level, tmp_path) as net:
            talk = Talk(net)
            await talk.listener("one")
            await talk.order(PODS, "one", action="Delay", amount=50)

            async def said():
                reasons = dict(await net.world.events("one"))
                return reasons.get("FaultNotInjected") or reasons.get("FaultInjected")

            text = await net.world.until(said, "an answer")
            assert text in (
                "Delay of the pod, on purpose",
                "Delay of the pod: this machine's kernel has no netem (module sch_netem)",
            )

    run(main)
