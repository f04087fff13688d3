"""Bytes that are hardly HTTP, and clients that go away: a 4xx or nothing; the server goes on."""

import socket

import pytest

from tests.scenarios.conftest import server_log

PATH = b"/api/v1/namespaces/default/configmaps"

REQUESTS = {
    "junk": b"\x00\xff\r\n\r\n",
    "half a request line": b"GET\r\n\r\n",
    "HTTP/2 in clear": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    "an unknown method": b"ZAP /api HTTP/1.1\r\nHost: x\r\n\r\n",
    "a long path": b"GET /" + b"a" * 100_000 + b" HTTP/1.1\r\nHost: x\r\n\r\n",
    "a star": b"GET * HTTP/1.1\r\nHost: x\r\n\r\n",
    "options of a star": b"OPTIONS * HTTP/1.1\r\nHost: x\r\n\r\n",
    "a negative length": b"POST %s HTTP/1.1\r\nHost: x\r\nContent-Length: -5\r\n\r\n" % PATH,
    "a bad chunk": b"POST %s HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\nZZ\r\n"
    % PATH,
    "a path with raw bytes": b"GET /api\xff HTTP/1.1\r\nHost: x\r\n\r\n",
}


@pytest.fixture(autouse=True)
def still_healthy(api, module_cluster):
    yield
    assert api("GET", "/healthz").code == 200
    assert "Traceback" not in server_log(module_cluster)


@pytest.mark.parametrize("case", REQUESTS)
def test_requests_that_are_hardly_http(api, case):
    with api.connect() as connection:
        connection.sendall(REQUESTS[case])
        answer = connection.recv(1000)
    assert answer.split(b" ")[1].startswith(b"4"), answer


def test_clients_without_tls(api):
    for beginning in (b"GET / HTTP/1.1\r\nHost: x\r\n\r\n", b"\x16\x03\x01"):
        with socket.create_connection(api.address, 5) as connection:
            connection.sendall(beginning)


def test_a_client_that_goes_away_in_the_middle_of_its_body(api):
    with api.connect() as connection:
        head = b"POST %s HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n" % PATH
        connection.sendall(head + b'Content-Length: 500\r\n\r\n{"apiVersion"')


def test_a_watcher_that_goes_away(api):
    for _ in range(20):
        with api.connect() as connection:
            connection.sendall(b"GET %s?watch=1 HTTP/1.1\r\nHost: x\r\n\r\n" % PATH)
            assert b"200 OK" in connection.recv(100)


def test_many_idle_connections(api):
    connections = [api.connect() for _ in range(200)]
    assert api("GET", "/readyz").code == 200
    for connection in connections:
        connection.close()
