"""Whether this machine lets us make pod networks: tried, not guessed."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from contextlib import ExitStack
from ipaddress import IPv4Address
from pathlib import Path

from kubarium.base.errors import KubariumError
from kubarium.engine.network.policy import Access, Allowed
from kubarium.node.network.netlink import links
from kubarium.node.network.netlink.channel import NETFILTER, Channel
from kubarium.node.network.plan import NetworkPlan
from kubarium.node.network.rules import World, messages
from kubarium.node.network.services import Balanced
from kubarium.node.runtimes.process import linux

_SOURCE = str(Path(__file__).resolve().parents[3])
_PATIENCE_S = 20
_PROGRAM = (
    "import sys; sys.path.insert(0, sys.argv[1]);"
    "from kubarium.node.network.trial import main; main()"
)


def refusal() -> str:
    """Why pods cannot have networks of their own here; "" if they can."""
    if sys.platform != "linux":
        return "networks of their own exist on Linux only"
    if os.geteuid() == 0:
        return _in_thread()
    # A user namespace can only be entered by a process of one thread.
    try:
        done = subprocess.run(
            [sys.executable, "-I", "-S", "-c", _PROGRAM, _SOURCE],
            capture_output=True,
            text=True,
            timeout=_PATIENCE_S,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        return str(error)
    return done.stdout.strip() if done.returncode == 0 else done.stderr.strip()[-500:]


def main() -> None:
    """Print why not, from within a user namespace."""
    try:
        outer = (os.geteuid(), os.getegid())
        linux.unshare(linux.CLONE_NEWUSER)
        linux.map_single_user(0, 0, *outer)
        print(_try())
    except OSError as error:
        print(error.strerror or error)


def _in_thread() -> str:
    """A thread may leave the machine's network without the rest of the process."""
    found: list[str] = []
    thread = threading.Thread(target=lambda: found.append(_try()), daemon=True)
    thread.start()
    thread.join(_PATIENCE_S)
    return found[0] if found else f"the kernel did not answer within {_PATIENCE_S} s"


def _try() -> str:
    """Build a router and a pod's cable with every kind of rule, in namespaces that go at once."""
    try:
        linux.unshare(linux.CLONE_NEWNET)
        with open("/proc/thread-self/ns/net", "rb") as pod, ExitStack() as opened:
            linux.unshare(linux.CLONE_NEWNET)
            routes, rules = Channel.here(), Channel.here(NETFILTER)
            opened.callback(routes.close)
            opened.callback(rules.close)
            _build(routes, rules, pod.fileno())
    except (KubariumError, OSError) as error:
        return str(error)
    return ""


def _build(routes: Channel, rules: Channel, pod: int) -> None:
    routes.ask(links.veth("trial", "eth0", 2, pod))
    index = links.link_indexes(routes.dump(links.all_links()))["trial"]
    routes.ask_all([links.up(links.LOOPBACK_INDEX), links.up(index, forward=True)])
    plan = NetworkPlan(0)
    address = plan.pod_network(0).removesuffix("0/24") + "9"
    routes.ask(links.route(index, f"{address}/32"))
    rules.batch(messages(_sample(plan, address)))


def _sample(plan: NetworkPlan, address: str) -> World:
    number = int(IPv4Address(address))
    allowed = (Allowed(((number, number),), "TCP", 80, 90),)
    backends = ((address, 80), (address, 81))
    services = (
        Balanced(plan.api, "TCP", 80, backends),
        Balanced(plan.api, "TCP", 81, backends, sticky=True),
    )
    return World(plan, services, {number: Access(allowed, allowed)}, {address: "trial"})
