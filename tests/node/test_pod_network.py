"""Pods with networks of their own: real processes, links, rules and names."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import subprocess
import textwrap
from contextlib import asynccontextmanager
from dataclasses import replace
from ipaddress import IPv4Network

import pytest

from kubarium.api.kinds import (
    ENDPOINT_SLICES,
    NAMESPACES,
    NETWORK_POLICIES,
    NODES,
    PODS,
    SERVICES,
)
from kubarium.api.logs import LogOptions
from kubarium.api.streams import StreamOptions
from kubarium.base.errors import ApiError
from kubarium.cluster.network import choose_network
from kubarium.node import isolation
from kubarium.node.config import NodeSpec
from kubarium.node.network.netlink import links
from kubarium.node.network.netlink.channel import Channel
from kubarium.node.network.pod_network import uplink_name
from kubarium.node.network.trial import refusal

from .conftest import process_world

pytestmark = pytest.mark.skipif(bool(refusal()), reason=f"no pod networks here: {refusal()}")

POOL = (NodeSpec("node-1"), NodeSpec("node-2"))
# Answers "<name> <peer address>" to whoever connects to one of the ports.
SERVE = """
import socket, sys, threading
def serve(port, host):
    server = socket.create_server((host, port))
    while True:
        peer, address = server.accept()
        peer.sendall(f"{sys.argv[1]} {address[0]}".encode())
        peer.close()
host, *ports = sys.argv[2:]
for port in ports:
    threading.Thread(target=serve, args=(int(port), host)).start()
"""
# Prints what each of "host:port" answers, or why not.
ASK = """
import socket, sys
for target in sys.argv[1:]:
    host, port = target.rsplit(":", 1)
    try:
        with socket.create_connection((host, int(port)), 1) as peer:
            print(target, peer.recv(99).decode() or "EMPTY", flush=True)
    except OSError as error:
        print(target, type(error).__name__, flush=True)
"""


def routes_of_machine():
    channel = Channel.here()
    try:
        return links.routed_networks(channel.dump(links.all_routes()))
    finally:
        channel.close()


def links_of_machine():
    channel = Channel.here()
    try:
        return set(links.link_indexes(channel.dump(links.all_links())))
    finally:
        channel.close()


class Net:
    """A world whose pods serve and ask."""

    def __init__(self, world, plan):
        self.world, self.plan = world, plan

    async def serve(self, name, *ports, host="0.0.0.0", **spec):
        """A pod that answers on ``ports``; its address."""
        numbers = " ".join(str(port) for port in ports)
        script = f"exec python3 -c '{SERVE}' {name} {host} {numbers}"
        probe = {"tcpSocket": {"port": ports[0]}, "periodSeconds": 1}
        container = {"readinessProbe": probe} if host == "0.0.0.0" else {}
        container |= spec.pop("container", {})
        await self.world.pod(name, script, container=container, **spec)
        return await self.address(name, ready=host == "0.0.0.0")

    async def address(self, name, ready=True):
        async def question():
            status = (await self.world.get(name))["status"]
            conditions = {c["type"]: c["status"] for c in status.get("conditions") or ()}
            up = conditions.get("Ready") == "True" if ready else status.get("phase") == "Running"
            return status.get("podIP") if up else None

        return await self.world.until(question, f"{name} is ready")

    async def ask(self, name, *targets, **spec):
        """What a pod that connects to each target is told, by target."""
        await self.world.pod(name, f"python3 -c '{ASK}' {' '.join(targets)}", **spec)
        lines = (await self.world.output(name)).splitlines()
        return dict(line.split(" ", 1) for line in lines)

    async def service(self, name, *backends, port=80, headless=False, protocol="TCP", **spec):
        """A service over endpoints (address, port); its cluster IP."""
        address = {"clusterIP": "None"} if headless else {"clusterIP": self.next_ip()}
        ports = [{"port": port, "protocol": protocol, "name": "p"}]
        document = {
            "apiVersion": "v1",
            "kind": "Service",
            "metadata": {"name": name},
            "spec": address | {"ports": ports} | spec,
        }
        await self.world.create(SERVICES, document)
        if backends:
            await self.world.create(ENDPOINT_SLICES, self.slice(name, backends, protocol))
        await asyncio.sleep(0.1)  # rules are gathered for 20 ms
        return address["clusterIP"]

    _ips = 10

    def next_ip(self):
        """The world's server gives loopback addresses: name one of the plan's."""
        Net._ips += 1
        return self.plan.services.removesuffix("0.0/16") + f"7.{Net._ips}"

    @staticmethod
    def slice(name, backends, protocol="TCP"):
        endpoints = [
            {"addresses": [address], "conditions": {"ready": True}}
            | ({"hostname": hostname[0]} if hostname else {})
            for address, _, *hostname in backends
        ]
        ports = [{"name": "p", "port": backends[0][1], "protocol": protocol}]
        return {
            "apiVersion": "discovery.k8s.io/v1",
            "kind": "EndpointSlice",
            "metadata": {"name": name, "labels": {"kubernetes.io/service-name": name}},
            "addressType": "IPv4",
            "endpoints": endpoints,
            "ports": ports,
        }

    async def policy(self, name, selector, namespace="default", **spec):
        document = {
            "apiVersion": "networking.k8s.io/v1",
            "kind": "NetworkPolicy",
            "metadata": {"name": name},
            "spec": {"podSelector": selector} | spec,
        }
        await self.world.create(NETWORK_POLICIES, document, namespace)
        await asyncio.sleep(0.1)  # rules are gathered for 20 ms


@pytest.fixture(params=[isolation.ROOT, isolation.USER_NAMESPACE])
def level(request):
    if request.param == isolation.ROOT and os.geteuid() != 0:
        pytest.skip("needs root")
    if request.param == isolation.USER_NAMESPACE:
        done = subprocess.run(["unshare", "-Urmn", "true"], capture_output=True)
        if done.returncode:
            pytest.skip("user namespaces are not to be had on this machine")
    return request.param


@asynccontextmanager
async def network(level, tmp_path, **config):
    """A world with two nodes on a network of its own; nothing of it is left on the machine."""
    choice = choose_network(str(tmp_path), "")
    plan = replace(choice.plan, uplink=level == isolation.ROOT)
    try:
        # The server of these worlds gives out loopback addresses unless one is named.
        async with process_world(level, network=plan, nodes=POOL, **config) as world:
            world.server.registry.service_range = IPv4Network(plan.services)
            yield Net(world, plan)
        assert uplink_name(world.root) not in links_of_machine()
        assert not [net for net in routes_of_machine() if str(net) in (plan.pods, plan.services)]
    finally:
        choice.close()


def run(work):
    asyncio.run(work())


def test_each_pod_has_an_address_and_ports_of_its_own(level, tmp_path):
    async def main():
        async with network(level, tmp_path) as net:
            one = await net.serve("one", 8080)
            two = await net.serve("two", 8080, nodeName="node-2")
            private = await net.serve("private", 8080, host="127.0.0.1")
            assert one.startswith(net.plan.pod_network(0).removesuffix("0/24"))
            assert two.startswith(net.plan.pod_network(1).removesuffix("0/24"))
            found = await net.ask(
                "asker",
                f"{one}:8080",
                f"{two}:8080",
                f"{one}:1",
                "127.0.0.1:8080",
                f"{private}:8080",
            )
            mine = (await net.world.get("asker"))["status"]["podIP"]
            assert found == {
                f"{one}:8080": f"one {mine}",
                f"{two}:8080": f"two {mine}",
                f"{one}:1": "ConnectionRefusedError",
                "127.0.0.1:8080": "ConnectionRefusedError",
                f"{private}:8080": "ConnectionRefusedError",
            }
            nodes = [await net.world.client.get(NODES, n.name) for n in POOL]
            cidrs = [node["spec"]["podCIDR"] for node in nodes]
            assert cidrs == [net.plan.pod_network(0), net.plan.pod_network(1)]

    run(main)


def test_no_descriptor_reaches_what_runs_in_a_pod(level, tmp_path):
    """Networks are descriptors of the processes above: a pod's own, other pods', the router's."""

    async def main():
        async with network(level, tmp_path) as net:
            await net.serve("before", 8080)
            await net.world.pod(
                "looks", "cd /proc/self/fd; for n in *; do readlink $n; done; exec true"
            )
            found = (await net.world.output("looks")).split()
            assert found[0] == "/dev/null"
            assert not [one for one in found if one.startswith(("net:", "socket:", "mnt:"))]

    run(main)


def test_services_balance_refuse_and_lead_back_to_oneself(level, tmp_path):
    async def main():
        async with network(level, tmp_path) as net:
            one, two = await net.serve("one", 8080), await net.serve("two", 8080)
            both = await net.service("both", (one, 8080), (two, 8080))
            none = await net.service("none")
            found = await net.ask("asker", *[f"{both}:80"] * 1, f"{both}:81", f"{none}:80")
            assert found.pop(f"{both}:80").split()[0] in ("one", "two")
            assert set(found.values()) == {"ConnectionRefusedError"}
            script = f"for i in 1 2 3 4; do python3 -c '{ASK}' {both}:80; done"
            await net.world.pod("turns", script)
            names = [line.split()[1] for line in (await net.world.output("turns")).splitlines()]
            assert sorted(names) == ["one", "one", "two", "two"]
            alone = await net.service("alone", (one, 8080))
            result = await net.world.agent.open_session(
                "default", "one", options(["python3", "-c", ASK, f"{alone}:80"])
            )
            text = await everything(result)
            assert text.split() == [f"{alone}:80", "one", net.plan.router]

    run(main)


def test_a_client_stays_with_its_endpoint_under_session_affinity(level, tmp_path):
    async def main():
        async with network(level, tmp_path) as net:
            one, two = await net.serve("one", 8080), await net.serve("two", 8080)
            sticky = await net.service(
                "sticky", (one, 8080), (two, 8080), sessionAffinity="ClientIP"
            )
            script = f"for i in 1 2 3 4 5 6; do python3 -c '{ASK}' {sticky}:80; done"
            await net.world.pod("turns", script)
            lines = (await net.world.output("turns")).splitlines()
            assert len(lines) == 6
            assert len({line.split()[1] for line in lines}) == 1

    run(main)


def test_datagrams_reach_services(level, tmp_path):
    async def main():
        async with network(level, tmp_path) as net:
            echo = textwrap.dedent("""
                import socket
                s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
                s.bind(("", 5000))
                print("up", flush=True)
                while True:
                    data, peer = s.recvfrom(99)
                    s.sendto(b"echo " + data, peer)
            """)
            await net.world.pod("echo", f"exec python3 -c '{echo}'")
            address = await net.address("echo", ready=False)
            ip = await net.service("echo", (address, 5000), protocol="UDP")
            ask = textwrap.dedent("""
                import socket, sys
                s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
                s.settimeout(0.3)
                for attempt in range(20):
                    try:
                        s.sendto(b"hi", (sys.argv[1], 80))
                        print(s.recv(99).decode())
                        break
                    except OSError:
                        continue
            """)
            await net.world.pod("asker", f"python3 -c '{ask}' {ip}")
            assert await net.world.output("asker") == "echo hi\n"

    run(main)


def test_names_of_services_and_pods_resolve(level, tmp_path):
    async def main():
        async with network(level, tmp_path) as net:
            one = await net.serve("one", 8080)
            await net.service("web", (one, 8080))
            await net.service("workers", (one, 8080, "worker-0"), headless=True)
            names = "web web.default web.default.svc.cluster.local workers worker-0.workers"
            found = await net.ask(
                "asker",
                *[f"{name}:8080" for name in names.split()[3:]],
                "web:80",
                "web.default:80",
                "web.default.svc.cluster.local:80",
                "nothing:80",
                "asker:80",
            )
            mine = (await net.world.get("asker"))["status"]["podIP"]
            assert found == {
                "workers:8080": f"one {mine}",
                "worker-0.workers:8080": f"one {mine}",
                "web:80": f"one {mine}",
                "web.default:80": f"one {mine}",
                "web.default.svc.cluster.local:80": f"one {mine}",
                "nothing:80": "gaierror",
                "asker:80": "ConnectionRefusedError",
            }

    run(main)


def test_pods_reach_the_api_and_the_world_outside(level, tmp_path):
    async def main():
        async def answer(reader, writer):
            writer.write(b"machine -")
            writer.close()

        api = await asyncio.start_server(answer, "127.0.0.1", 0)
        outside = await asyncio.start_server(answer, machine_address(), 0)
        port, far = (s.sockets[0].getsockname()[1] for s in (api, outside))
        async with network(level, tmp_path, api_host="127.0.0.1", api_port=port) as net:
            document = {
                "apiVersion": "v1",
                "kind": "Service",
                "metadata": {"name": "kubernetes"},
                "spec": {"clusterIP": net.plan.api, "ports": [{"port": 443, "name": "https"}]},
            }
            await net.world.create(SERVICES, document)
            await asyncio.sleep(0.1)
            found = await net.ask(
                "asker",
                "$KUBERNETES_SERVICE_HOST:$KUBERNETES_SERVICE_PORT",
                "kubernetes:443",
                f"{machine_address()}:{far}",
                "127.0.0.1:" + str(port),
            )
            assert found == {
                f"{net.plan.api}:443": "machine -",
                "kubernetes:443": "machine -",
                f"{machine_address()}:{far}": "machine -",
                f"127.0.0.1:{port}": "ConnectionRefusedError",
            }
        api.close()
        outside.close()

    run(main)


def test_the_agent_reaches_into_pods(level, tmp_path):
    """Probes and port forwarding; the latter also to what listens on the pod's localhost only."""

    async def main():
        async with network(level, tmp_path) as net:
            await net.serve("open", 8080)
            await net.serve("private", 8081, host="127.0.0.1")
            for name, port in (("open", 8080), ("private", 8081)):
                text = await net.world.until(lambda n=name, p=port: through(net, n, p), name)
                assert text.split()[0] == name.encode()
            with pytest.raises(ConnectionError, match="inside the pod: connection refused"):
                await net.world.agent.open_port("default", "open", 8081)

    run(main)


def test_host_network_and_host_ports(tmp_path, needs_root):
    async def main():
        async with network(isolation.ROOT, tmp_path) as net:
            container = {"ports": [{"containerPort": 8080, "hostPort": 28471}]}
            inner = await net.serve("inner", 8080, container=container)
            outer = await net.serve("outer", 28472, hostNetwork=True)
            assert outer == net.plan.node_address(0)
            assert await net.world.until(lambda: answers("127.0.0.1", 28471), "host port") == (
                f"inner {outer}"
            )
            assert await answers(outer, 28471) == f"inner {outer}"
            assert await answers(inner, 8080) == f"inner {outer}", "from the machine itself"
            found = await net.ask("asker", f"{outer}:28472", f"{outer}:28471")
            mine = (await net.world.get("asker"))["status"]["podIP"]
            assert found == {f"{outer}:28472": f"outer {mine}", f"{outer}:28471": f"inner {outer}"}
            await net.serve("clash", 8080, container=container)
            assert "28471" in await net.world.event("clash", "FailedToListen")

    run(main)


# Policies ----------------------------------------------------------------------------------------


def test_policies_close_and_open_pods(level, tmp_path):
    async def main():
        async with network(level, tmp_path) as net:
            web = await net.serve("web", 8080, 9090, labels={"app": "web"})
            free = await net.serve("free", 8080)
            ip = await net.service("web", (web, 8080))
            await net.policy("deny", {}, policyTypes=["Ingress"])
            targets = (f"{web}:8080", f"{ip}:80", f"{free}:8080")
            closed = await net.ask("closed", *targets)
            assert set(closed.values()) == {"TimeoutError"}
            rule = {
                "from": [{"podSelector": {"matchLabels": {"role": "friend"}}}],
                "ports": [{"port": 8080, "endPort": 8099}],
            }
            await net.policy("friends", {"matchLabels": {"app": "web"}}, ingress=[rule])
            friend = await net.ask("friend", *targets, f"{web}:9090", labels={"role": "friend"})
            mine = (await net.world.get("friend"))["status"]["podIP"]
            assert friend == {
                f"{web}:8080": f"web {mine}",
                f"{ip}:80": f"web {mine}",
                f"{free}:8080": "TimeoutError",
                f"{web}:9090": "TimeoutError",
            }
            stranger = await net.ask("stranger", *targets)
            assert set(stranger.values()) == {"TimeoutError"}
            # The node itself still gets in, as probes must.
            connection = await net.world.agent.open_port("default", "web", 8080)
            assert (await connection.read()).startswith(b"web")
            connection.close()
            await net.world.client.delete(NETWORK_POLICIES, "deny", "default")
            await asyncio.sleep(0.1)
            assert (await net.ask("later", f"{free}:8080"))[f"{free}:8080"].startswith("free")

    run(main)


def test_policies_select_namespaces_and_blocks(level, tmp_path):
    async def main():
        async with network(level, tmp_path) as net:
            other = {"name": "other", "labels": {"team": "blue"}}
            document = {"apiVersion": "v1", "kind": "Namespace", "metadata": other}
            await net.world.create(NAMESPACES, document, "")
            web = await net.serve("web", 8080)
            blue = {"from": [{"namespaceSelector": {"matchLabels": {"team": "blue"}}}]}
            await net.policy("blue", {}, ingress=[blue])
            target = f"{web}:8080"
            assert (await net.ask("near", target))[target] == "TimeoutError"
            await net.world.pod("far", f"python3 -c '{ASK}' {target}", namespace="other")

            async def ended():
                pod = await net.world.get("far", "other")
                return pod["status"].get("phase") in ("Succeeded", "Failed")

            await net.world.until(ended, "far has ended")
            pieces = [piece async for piece in net.world.agent.logs("other", "far", log_options())]
            assert b"".join(pieces).startswith(f"{target} web".encode())
            block = {"cidr": net.plan.pods, "except": [net.plan.pod_network(1)]}
            await net.policy("block", {}, ingress=[{"from": [{"ipBlock": block}]}])
            assert (await net.ask("inside", target))[target].startswith("web")
            excepted = await net.ask("excepted", target, nodeName="node-2")
            assert excepted[target] == "TimeoutError"

    run(main)


def test_egress_policies_hold_for_the_way_out_too(level, tmp_path):
    async def main():
        async def answer(reader, writer):
            writer.write(b"machine -")
            writer.close()

        outside = await asyncio.start_server(answer, machine_address(), 0)
        far = f"{machine_address()}:{outside.sockets[0].getsockname()[1]}"
        async with network(level, tmp_path) as net:
            ports = [{"containerPort": 8080, "name": "http"}]
            web = await net.serve("web", 8080, 9090, container={"ports": ports})
            await net.service("web", (web, 8080))
            shut = {"matchLabels": {"shut": "yes"}}
            await net.policy("shut", shut, policyTypes=["Egress"])
            targets = (f"{web}:8080", f"{web}:9090", "web:80", far)
            found = await net.ask("shut", *targets, labels={"shut": "yes"})
            assert set(found.values()) == {"TimeoutError"}, "names resolve, connections do not"
            rule = {"to": [{"podSelector": {}}], "ports": [{"port": "http"}]}
            await net.policy("web-only", shut, policyTypes=["Egress"], egress=[rule])
            found = await net.ask("web-only", *targets, labels={"shut": "yes"})
            assert [found[t].split()[0] for t in targets] == [
                "web",
                "TimeoutError",
                "web",
                "TimeoutError",
            ]
            block = {"to": [{"ipBlock": {"cidr": f"{machine_address()}/32"}}]}
            await net.policy("outside", shut, policyTypes=["Egress"], egress=[block])
            assert (await net.ask("out", far, labels={"shut": "yes"}))[far] == "machine -"
            assert (await net.ask("open", far))[far] == "machine -"
        outside.close()

    run(main)


def test_a_pod_cannot_speak_with_anothers_address(level, tmp_path):
    async def main():
        async with network(level, tmp_path) as net:
            web = await net.serve("web", 8080)
            friend = await net.serve("friend", 8080)
            forge = textwrap.dedent("""
                import socket, struct, sys
                source, target = map(socket.inet_aton, sys.argv[1:])
                s = socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_RAW)
                udp = struct.pack(">HHHH", 5000, 5000, 14, 0) + b"forged"
                head = struct.pack(
                    ">BBHHHBBH4s4s", 0x45, 0, 34, 1, 0, 64, 17, 0, source, target
                )
                s.sendto(head + udp, (sys.argv[2], 0))
            """)
            listen = textwrap.dedent("""
                import socket
                s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
                s.bind(("", 5000))
                s.settimeout(3)
                print("up", flush=True)
                for _ in range(9):
                    try:
                        print(*s.recvfrom(99), flush=True)
                    except OSError:
                        break
            """)
            await net.world.pod("victim", f"python3 -c '{listen}'")
            victim = await net.address("victim", ready=False)
            await net.world.until(lambda: logged(net.world, "victim"), "it listens")
            assert web != friend
            container = {"securityContext": {"capabilities": {"add": ["NET_RAW"]}}}
            await net.world.pod(
                "honest",
                f"python3 -c '{forge}' $IP {victim}",
                container=container
                | {
                    "env": [
                        {"name": "IP", "valueFrom": {"fieldRef": {"fieldPath": "status.podIP"}}}
                    ]
                },
            )
            await net.world.phase("honest", "Succeeded")
            await net.world.pod(
                "liar", f"python3 -c '{forge}' {friend} {victim}", container=container
            )
            await net.world.phase("liar", "Succeeded")
            lines = (await net.world.output("victim")).splitlines()
            honest = (await net.world.get("honest"))["status"]["podIP"]
            forged = [line for line in lines if "forged" in line]
            assert forged == [f"b'forged' ('{honest}', 5000)"]

    run(main)


# Ends ------------------------------------------------------------------------------------------


def test_a_new_router_takes_the_place_of_a_killed_one(level, tmp_path):
    async def main():
        async with network(level, tmp_path) as net:
            await net.serve("web", 8080, restartPolicy="Always")
            before = (await net.world.get("web"))["status"]["containerStatuses"][0]
            os.kill(net.world.agent._process.pods._engine.pid, signal.SIGKILL)

            async def restarted():
                pod = await net.world.get("web")
                status = pod["status"]["containerStatuses"][0]
                again = status["restartCount"] > before["restartCount"] and status["ready"]
                return pod["status"]["podIP"] if again else None

            address = await net.world.until(restarted, "restarted")
            found = await net.ask("asker", f"{address}:8080", "nothing:1")
            assert found[f"{address}:8080"].startswith("web")
            assert found["nothing:1"] == "gaierror", "the name server answers again"

    run(main)


def test_a_deleted_pods_address_is_free_at_once(level, tmp_path):
    async def main():
        async with network(level, tmp_path) as net:
            address = await net.serve("web", 8080)
            await net.world.client.delete(PODS, "web", "default")
            await net.world.gone("web")
            assert (await net.ask("asker", f"{address}:8080"))[f"{address}:8080"] in (
                "TimeoutError",
                "OSError",
            )

    run(main)


def machine_address():
    """An address of this machine that is not on loopback."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(("192.0.2.254", 9))
        except OSError:
            pytest.skip("the machine has no network at all")
        return probe.getsockname()[0]


async def through(net, name, port):
    """What a forwarded connection to a pod's port brings; nothing if it listens not yet."""
    try:
        connection = await net.world.agent.open_port("default", name, port)
    except ConnectionError:
        return b""
    try:
        return await connection.read()
    finally:
        connection.close()


async def answers(host, port):
    try:
        reader, writer = await asyncio.open_connection(host, port)
    except OSError:
        return ""
    data = await reader.read()
    writer.close()
    return data.decode()


async def logged(world, name):
    try:
        return await world.log(name)
    except ApiError:
        return ""


def log_options():
    return LogOptions()


def options(command):
    return StreamOptions(command=tuple(command), stdout=True, stderr=True, container="main")


async def everything(session):
    found = b""
    while True:
        piece = await session.read()
        if piece is None:
            break
        found += piece[1]
    session.close()
    return found.decode()
