"""Addresses for pods and nodes on the loopback network.

On Linux every address of 127.0.0.0/8 reaches the machine, so a unique one for each pod needs no
set-up and no privilege. Services take 127.96.0.0/16 (the API server hands those out). Elsewhere
127.0.0.1 is the only one, and all pods have it, as pods on a host's network have the host's.
"""

from __future__ import annotations

import hashlib
import ipaddress
import socket
from collections import deque
from functools import cache
from typing import Protocol

from kubarium.base.errors import KubariumError

POD_NETWORK = "127.64.0.0/12"
NODE_NETWORK = "127.112.0.0/16"
ONLY_LOOPBACK = "127.0.0.1"


class Addresses(Protocol):
    """Who lends addresses."""

    def lend(self, owner: str) -> str:
        """The owner's address; the same one if it has one already."""
        ...

    def keep(self, owner: str, address: str) -> None:
        """The owner has this address from before."""
        ...

    def give_back(self, owner: str) -> None:
        """The owner needs it no longer."""
        ...


@cache
def loopback_is_whole() -> bool:
    """Whether programs can listen on any loopback address here: tried, not guessed."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as trial:
        try:
            trial.bind((str(ipaddress.ip_network(POD_NETWORK)[1]), 0))
        except OSError:
            return False
    return True


def loopback_addresses(network: str, seed: str = "") -> Addresses:
    """Addresses of a loopback network, or the only one that there is; ``seed``: `AddressPool`."""
    return AddressPool(network, seed) if loopback_is_whole() else OneAddress()


class PodAddresses:
    """Each node lends its pods addresses of its own network, or all of them loopback addresses."""

    def __init__(self, seed: str = "") -> None:
        """``seed`` as for :class:`AddressPool`, of the loopback addresses."""
        self._seed = seed
        self._pools: dict[str, Addresses] = {}
        self._owners: dict[str, Addresses] = {}

    def lend(self, owner: str, network: str = "") -> str:
        """An address of ``network`` ("": on loopback); the same one if the owner has one."""
        pool = self._owners.get(owner)
        if pool is None:
            pool = self._owners[owner] = self._pool(network)
        return pool.lend(owner)

    def keep(self, owner: str, address: str, network: str = "") -> None:
        """The owner has this address from before."""
        pool = self._owners[owner] = self._pool(network)
        pool.keep(owner, address)

    def give_back(self, owner: str) -> None:
        pool = self._owners.pop(owner, None)
        if pool is not None:
            pool.give_back(owner)

    def _pool(self, network: str) -> Addresses:
        if network not in self._pools:
            self._pools[network] = (
                AddressPool(network) if network else loopback_addresses(POD_NETWORK, self._seed)
            )
        return self._pools[network]


class OneAddress:
    """127.0.0.1 for everybody."""

    def lend(self, owner: str) -> str:
        return ONLY_LOOPBACK

    def keep(self, owner: str, address: str) -> None:
        pass

    def give_back(self, owner: str) -> None:
        pass


def _text_v4(number: int) -> str:
    return f"{number >> 24}.{number >> 16 & 255}.{number >> 8 & 255}.{number & 255}"


def _text_v6(number: int) -> str:
    return str(ipaddress.IPv6Address(number))


class AddressPool:
    """Lends addresses of one network; an address given back is lent again last of all."""

    def __init__(self, network: str, seed: str = "") -> None:
        """``seed`` says where in the network to begin, so that clusters side by side on one machine
        seldom share addresses; "" begins at the first."""
        parsed = ipaddress.ip_network(network)
        self._text = _text_v4 if parsed.version == 4 else _text_v6
        self._base = int(parsed.network_address)
        self._size = parsed.num_addresses
        blocks = max(self._size // 256, 1)
        digest = hashlib.sha256(seed.encode()).digest()
        self._first = int.from_bytes(digest[:4]) % blocks * 256 if seed else 0
        self._next = 1
        self._free: deque[int] = deque()
        self._lent: dict[str, int] = {}
        self._kept: dict[int, None] = {}

    def lend(self, owner: str) -> str:
        """The owner's address; the same one if it has one already. Never ends in .0 or .255."""
        number = self._lent.get(owner)
        if number is None:
            number = self._lent[owner] = self._take()
        return self._text(self._base + number)

    def keep(self, owner: str, address: str) -> None:
        """The owner has this address from before; one of another network is ignored."""
        number = int(ipaddress.ip_address(address)) - self._base
        if 0 < number < self._size and number not in self._lent.values():
            self._lent[owner] = number
            self._kept[number] = None

    def give_back(self, owner: str) -> None:
        number = self._lent.pop(owner, None)
        if number is not None:
            self._free.append(number)

    def _take(self) -> int:
        while self._next < self._size:
            number = (self._first + self._next) % self._size
            self._next += 1
            if number % 256 not in (0, 255) and number not in self._kept:
                return number
        if not self._free:
            raise KubariumError(f"no address left in a network of {self._size}")
        return self._free.popleft()
