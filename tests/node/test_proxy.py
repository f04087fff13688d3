"""Cluster IPs: connections reach ready endpoints; addresses come and go with them."""

from __future__ import annotations

import asyncio

import pytest

from kubarium.api.kinds import ENDPOINT_SLICES, SERVICES
from kubarium.node.network.proxy import service_backends

from .conftest import process_world


def endpoint_slice(port, *addresses, ready=True, service="web", port_name=""):
    return {
        "apiVersion": "discovery.k8s.io/v1",
        "kind": "EndpointSlice",
        "metadata": {
            "name": f"{service}-1",
            "labels": {"kubernetes.io/service-name": service},
        },
        "addressType": "IPv4",
        "ports": [{"name": port_name, "port": port, "protocol": "TCP"}],
        "endpoints": [{"addresses": [a], "conditions": {"ready": ready}} for a in addresses],
    }


def service(port, ip="127.96.7.7"):
    return {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": "web"},
        "spec": {"clusterIP": ip, "ports": [{"port": port, "protocol": "TCP"}]},
    }


def test_backends_are_ready_endpoints_of_the_port():
    slices = [
        endpoint_slice(8080, "127.64.0.2", "127.64.0.1"),
        endpoint_slice(8080, "127.64.0.3", ready=False),
        endpoint_slice(9090, "127.64.0.4", port_name="metrics"),
    ]
    assert service_backends(service(80), slices) == {
        ("127.96.7.7", 80): [("127.64.0.1", 8080), ("127.64.0.2", 8080)]
    }
    assert service_backends(service(80, "None"), slices) == {}


def test_endpoints_that_end_but_still_serve_are_taken_where_nothing_else_is_ready():
    ending = endpoint_slice(8080, "127.64.0.1", "127.64.0.2", ready=False)
    conditions = [endpoint["conditions"] for endpoint in ending["endpoints"]]
    conditions[0] |= {"serving": True, "terminating": True}
    conditions[1] |= {"serving": False, "terminating": True}
    at = ("127.96.7.7", 80)
    assert service_backends(service(80), [ending]) == {at: [("127.64.0.1", 8080)]}
    ready = endpoint_slice(8080, "127.64.0.3")
    assert service_backends(service(80), [ending, ready]) == {at: [("127.64.0.3", 8080)]}


async def echo_server(address, name):
    async def serve(reader, writer):
        data = await reader.read()
        writer.write(name + b" got " + data)
        writer.close()

    return await asyncio.start_server(serve, address, 0)


async def ask(port, text):
    reader, writer = await asyncio.open_connection("127.96.7.7", port)
    writer.write(text)
    writer.write_eof()
    answer = await reader.read()
    writer.close()
    return answer


def free_port():
    import socket

    with socket.create_server(("127.96.7.7", 0)) as server:
        return server.getsockname()[1]


def test_a_service_works_while_it_has_endpoints():
    async def main():
        async with process_world() as world:
            backend = await echo_server("127.64.9.9", b"one")
            target = backend.sockets[0].getsockname()[1]
            port = free_port()
            await world.create(SERVICES, service(port))
            with pytest.raises(ConnectionRefusedError):
                await ask(port, b"x")
            slice_ = await world.create(ENDPOINT_SLICES, endpoint_slice(target, "127.64.9.9"))

            async def answered():
                try:
                    return await ask(port, b"hello")
                except ConnectionRefusedError:
                    return None

            assert await world.until(answered) == b"one got hello"
            assert await ask(port, b"y" * 1_000_000) == b"one got " + b"y" * 1_000_000
            name = slice_["metadata"]["name"]
            await world.client.delete(ENDPOINT_SLICES, name, "default")

            async def refused():
                try:
                    await ask(port, b"x")
                except ConnectionRefusedError:
                    return True
                return False

            await world.until(refused, "the address is given up")
            backend.close()

    asyncio.run(main())


def test_an_address_in_use_is_one_event():
    async def main():
        async with process_world() as world:
            occupant = await asyncio.start_server(lambda r, w: None, "127.96.7.7", 0)
            port = occupant.sockets[0].getsockname()[1]
            await world.create(SERVICES, service(port))
            await world.create(ENDPOINT_SLICES, endpoint_slice(1, "127.64.9.9"))
            message = await world.event("web", "FailedToListen")
            assert f"127.96.7.7:{port}" in message
            occupant.close()

    asyncio.run(main())
