"""Which addresses a cluster's network has. Pure.

Each cluster on a machine takes a pair of networks of its own: one for services, one for pods. The
first 256 addresses of the latter are the router's (who is gateway and name server) and the nodes';
each node then has the next 256 for its pods (its ``podCIDR``).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network

from kubarium.base.errors import ConfigError

# So many clusters may have networks on one machine at a time.
CHOICES = 31
_SERVICES_FROM, _PODS_FROM = 96, 200
MOST_NODES = 250
_FIRST_NODE = 5


@dataclass(frozen=True, slots=True)
class NetworkPlan:
    """The networks of choice ``number`` (0 to CHOICES - 1). ``uplink``: the machine itself is
    connected to them, which takes root."""

    number: int
    uplink: bool = True

    @property
    def services(self) -> str:
        """Cluster IPs; upstream's default is 10.96.0.0/12."""
        return f"10.{_SERVICES_FROM + self.number}.0.0/16"

    @property
    def pods(self) -> str:
        """Router, nodes and pods."""
        return f"10.{_PODS_FROM + self.number}.0.0/16"

    @property
    def nodes(self) -> str:
        """Router and nodes."""
        return f"10.{_PODS_FROM + self.number}.0.0/24"

    @property
    def router(self) -> str:
        """The gateway and name server of all pods."""
        return f"10.{_PODS_FROM + self.number}.0.1"

    @property
    def api(self) -> str:
        """The cluster IP of the ``kubernetes`` service."""
        return f"10.{_SERVICES_FROM + self.number}.0.1"

    def node_address(self, index: int) -> str:
        return f"10.{_PODS_FROM + self.number}.0.{_FIRST_NODE + self._checked(index)}"

    def pod_network(self, index: int) -> str:
        """The ``podCIDR`` of the node with this index."""
        return f"10.{_PODS_FROM + self.number}.{1 + self._checked(index)}.0/24"

    @classmethod
    def _checked(cls, index: int) -> int:
        cls.confirm(index + 1)
        return index

    @staticmethod
    def confirm(nodes: int) -> None:
        """ConfigError unless so many nodes have a place."""
        if nodes > MOST_NODES:
            raise ConfigError(
                f"nodePools: at most {MOST_NODES} nodes of runtime process have a place in a pod "
                f"network, not {nodes}; lower count, or use runtime: simulated"
            )


def number_of(cluster_ip: str) -> int | None:
    """The choice that a cluster IP comes from; None if from none (a loopback address)."""
    try:
        first, second, *_ = IPv4Address(cluster_ip).packed
    except ValueError:
        return None
    number = second - _SERVICES_FROM
    return number if first == 10 and 0 <= number < CHOICES else None


def choose(start: int, taken: Sequence[IPv4Network]) -> int | None:
    """The first choice from ``start`` on, in a circle, that meets none of the networks ``taken``;
    None if all do."""
    for step in range(CHOICES):
        number = (start + step) % CHOICES
        if not overlaps(NetworkPlan(number), taken):
            return number
    return None


def overlaps(plan: NetworkPlan, taken: Iterable[IPv4Network]) -> bool:
    """Whether the machine already has routes into the plan's networks."""
    mine = (IPv4Network(plan.services), IPv4Network(plan.pods))
    return any(other.overlaps(own) for other in taken for own in mine)
