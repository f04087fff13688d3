"""gRPC probes against a real server, and against things that are none."""

from __future__ import annotations

import asyncio
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import pytest

from kubarium.node.probes import network_probe

grpc = pytest.importorskip("grpc")

SERVING, NOT_SERVING = 1, 2
LONG = "a.service.with.a.name." * 20


class Health(grpc.GenericRpcHandler):
    """The health service by hand: statuses by service name."""

    def __init__(self, statuses, delay=None):
        self.statuses, self.delay = statuses, delay

    def service(self, details):
        if details.method != "/grpc.health.v1.Health/Check":
            return None
        return grpc.unary_unary_rpc_method_handler(self.check)

    def check(self, request, context):
        if self.delay is not None:
            self.delay.wait(5)
        name = request[1 + (2 if len(request) > 129 else 1) :].decode() if request else ""
        if name not in self.statuses:
            context.abort(grpc.StatusCode.NOT_FOUND, "unknown service")
        status = self.statuses[name]
        return bytes([8, status]) if status else b""


@contextmanager
def serving(*handlers):
    server = grpc.server(ThreadPoolExecutor(2), handlers=handlers)
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    try:
        yield port
    finally:
        server.stop(None).wait()


def probe(port, service=None, timeout_s=2.0):
    action = {"port": port} | ({} if service is None else {"service": service})
    return asyncio.run(network_probe({"grpc": action}, {}, "127.0.0.1", timeout_s))


def test_a_server_that_serves_is_healthy_as_a_whole_and_by_service():
    with serving(Health({"": SERVING, "db": SERVING, LONG: SERVING, "down": NOT_SERVING})) as port:
        assert probe(port) == ("success", "")
        assert probe(port, "db") == ("success", "")
        assert probe(port, LONG) == ("success", "")
        unhealthy = 'service unhealthy (responded with "NOT_SERVING")'
        assert probe(port, "down") == ("failure", unhealthy)
        outcome, message = probe(port, "nowhere")
        assert outcome == "failure"
        assert message == (
            "error: health rpc probe failed: rpc error: code = NotFound desc = unknown service"
        )


def test_a_server_without_the_health_protocol():
    with serving() as port:
        outcome, message = probe(port)
    assert outcome == "failure"
    health = "does not implement the grpc health protocol (grpc.health.v1.Health): "
    assert message.startswith(f"error: this server {health}")


def test_one_that_does_not_answer_in_time():
    import threading

    held = threading.Event()
    with serving(Health({"": SERVING}, held)) as port:
        found = probe(port, timeout_s=0.2)
        held.set()
    assert found == ("failure", "timeout: health rpc did not complete within 0.2s")


def test_an_answer_without_a_status_is_unknown():
    with serving(Health({"": 0})) as port:
        unknown = 'service unhealthy (responded with "UNKNOWN")'
        assert probe(port) == ("failure", unknown)


@pytest.mark.parametrize("says", [b"", b"HTTP/1.1 400 Bad Request\r\n\r\n", b"\x00" * 64])
def test_what_speaks_something_else_fails_the_probe(says):
    async def main():
        async def answer(reader, writer):
            await reader.read(10)
            writer.write(says)
            writer.close()

        server = await asyncio.start_server(answer, "127.0.0.1", 0)
        port = server.sockets[0].getsockname()[1]
        found = await network_probe({"grpc": {"port": port}}, {}, "127.0.0.1", 2.0)
        server.close()
        await server.wait_closed()
        return found

    outcome, message = asyncio.run(main())
    assert outcome == "failure"
    assert message.startswith("error: health rpc probe failed: rpc error: code = Unavailable")


def test_nobody_there():
    async def main():
        server = await asyncio.start_server(lambda r, w: None, "127.0.0.1", 0)
        port = server.sockets[0].getsockname()[1]
        server.close()
        await server.wait_closed()
        return port, await network_probe({"grpc": {"port": port}}, {}, "127.0.0.1", 2.0)

    port, (outcome, message) = asyncio.run(main())
    assert outcome == "failure"
    where = f'"127.0.0.1:{port}"'
    assert message == f"error: failed to connect service at {where}: connection refused"
