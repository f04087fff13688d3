"""The cluster's name server: messages, the zone, resolv.conf."""

from __future__ import annotations

import asyncio
import socket
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kubarium.node.network.dns import wire
from kubarium.node.network.dns.server import DnsServer
from kubarium.node.network.dns.wire import Answer, Malformed
from kubarium.node.network.dns.zone import Zone, ZoneSources
from kubarium.node.network.resolv import resolv_conf

DOMAIN = "cluster.local"


def service(name, address="10.96.0.7", **spec):
    ports = [{"name": "http", "port": 80, "protocol": "TCP"}]
    return {
        "kind": "Service",
        "metadata": {"name": name, "namespace": "ns"},
        "spec": {"clusterIP": address, "ports": ports} | spec,
    }


def slice_of(*endpoints):
    return {
        "ports": [{"name": "http", "port": 8080, "protocol": "TCP"}],
        "endpoints": [
            {"addresses": [address], "conditions": {"ready": ready}}
            | ({"hostname": hostname} if hostname else {})
            for address, hostname, ready in endpoints
        ],
    }


SERVICES = {
    "web": service("web"),
    "workers": service("workers", "None"),
    "empty": service("empty", "None"),
    "far": service("far", "", type="ExternalName", externalName="Example.COM."),
}
SLICES = {
    "web": [slice_of(("10.200.1.1", "", True))],
    "workers": [
        slice_of(("10.200.1.1", "w-0", True), ("10.200.1.2", "", True)),
        slice_of(("10.200.1.3", "w-2", False)),
    ],
}
POD = {
    "kind": "Pod",
    "metadata": {"name": "p", "namespace": "ns"},
    "spec": {"hostname": "w-0", "subdomain": "workers"},
}
ZONE = Zone(
    DOMAIN,
    ZoneSources(
        lambda namespace, name: SERVICES.get(name) if namespace == "ns" else None,
        lambda namespace, name: SLICES.get(name, []),
        lambda name: {} if name == "ns" else None,
        lambda address: {"10.96.0.7": [SERVICES["web"]], "10.200.1.1": [POD]}.get(address, []),
    ),
    ("10.96.0.0/16", "10.200.0.0/16"),
)


def found(name, kind=wire.A):
    answers = ZONE.answers(name, kind)
    return None if answers is None else [answer.data for answer in answers]


def test_a_service_is_its_cluster_ip():
    assert found("web.ns.svc.cluster.local") == ["10.96.0.7"]
    assert found("web.ns.svc.cluster.local", wire.AAAA) == [], "it exists, without IPv6"
    assert found("web.other.svc.cluster.local") is None
    assert found("w-0.web.ns.svc.cluster.local") is None, "pods have names of headless ones only"


def test_a_headless_service_is_its_ready_endpoints_by_name_too():
    assert found("workers.ns.svc.cluster.local") == ["10.200.1.1", "10.200.1.2"]
    assert found("w-0.workers.ns.svc.cluster.local") == ["10.200.1.1"]
    assert found("10-200-1-2.workers.ns.svc.cluster.local") == ["10.200.1.2"]
    assert found("w-2.workers.ns.svc.cluster.local") is None, "not ready"
    assert found("empty.ns.svc.cluster.local") is None


def test_ports_have_names():
    name = "_http._tcp.workers.ns.svc.cluster.local"
    assert found(name, wire.SRV) == [
        "0 100 8080 w-0.workers.ns.svc.cluster.local",
        "0 100 8080 10-200-1-2.workers.ns.svc.cluster.local",
    ]
    assert found("_http._tcp.web.ns.svc.cluster.local", wire.SRV) == [
        "0 100 80 web.ns.svc.cluster.local"
    ]
    assert found("_http._udp.web.ns.svc.cluster.local", wire.SRV) is None


def test_addresses_have_names():
    assert found("7.0.96.10.in-addr.arpa", wire.PTR) == ["web.ns.svc.cluster.local"]
    assert found("1.1.200.10.in-addr.arpa", wire.PTR) == ["w-0.workers.ns.svc.cluster.local"]
    assert found("9.9.200.10.in-addr.arpa", wire.PTR) is None
    assert not ZONE.holds("1.1.168.192.in-addr.arpa"), "others' addresses are asked elsewhere"
    assert found("10-200-1-9.ns.pod.cluster.local") == ["10.200.1.9"]
    assert found("10-200-1-900.ns.pod.cluster.local") is None
    assert found("dns-version.cluster.local", wire.TXT) == ["1.1.0"]
    assert found("ns.svc.cluster.local") == []
    assert found("svc.cluster.local") == []
    assert found("nonsense.cluster.local") is None


def ask(server, name, kind=wire.A, over_udp=True):
    return asyncio.run(server.respond(wire.query(7, name, kind), over_udp))


def head(message):
    """(response code, number of answers, truncated) of a message."""
    _, flags, _, answers, _, _ = struct.unpack_from(">HHHHHH", message)
    return flags & 0xF, answers, bool(flags & 0x200)


def test_codes_of_answers():
    server = DnsServer(ZONE, forward_to=())
    assert head(ask(server, "WEB.ns.svc.cluster.local")) == (wire.NO_ERROR, 1, False)
    assert head(ask(server, "web.ns.svc.cluster.local", wire.AAAA)) == (wire.NO_ERROR, 0, False)
    assert head(ask(server, "no.ns.svc.cluster.local")) == (wire.NO_SUCH_NAME, 0, False)
    assert head(ask(server, "example.com")) == (wire.SERVER_FAILURE, 0, False)


def test_other_names_are_asked_elsewhere():
    async def main():
        class Upstream(asyncio.DatagramProtocol):
            def connection_made(self, transport):
                self.transport = transport

            def datagram_received(self, data, sender):
                question = wire.parse(data)
                answer = [Answer(question.name, wire.A, "192.0.2.1")]
                self.transport.sendto(wire.response(question, 0, answer), sender)

        loop = asyncio.get_running_loop()
        transport, _ = await loop.create_datagram_endpoint(Upstream, ("127.0.0.1", 0))
        server = DnsServer(ZONE, [transport.get_extra_info("sockname")])
        answer = await server.respond(wire.query(7, "example.com", wire.A), True)
        assert head(answer) == (wire.NO_ERROR, 1, False)
        assert answer.endswith(socket.inet_aton("192.0.2.1"))
        transport.close()

    asyncio.run(main())


def test_long_answers_are_cut_for_datagrams_and_whole_on_streams():
    endpoints = [(f"10.200.2.{n}", "", True) for n in range(1, 101)]
    SLICES["many"], SERVICES["many"] = [slice_of(*endpoints)], service("many", "None")
    server = DnsServer(ZONE, forward_to=())
    cut = ask(server, "many.ns.svc.cluster.local")
    code, answers, truncated = head(cut)
    assert (code, truncated) == (wire.NO_ERROR, True)
    assert 0 < answers < 100
    assert len(cut) <= wire.UDP_BYTES
    assert head(ask(server, "many.ns.svc.cluster.local", over_udp=False)) == (0, 100, False)


@given(st.binary(max_size=80))
def test_no_message_breaks_the_server(data):
    try:
        question = wire.parse(data)
    except Malformed:
        return
    answer = wire.response(question, wire.NO_SUCH_NAME, zone=DOMAIN)
    assert answer[:2] == data[:2]


_label = st.text("abcdefghijklmnopqrstuvwxyz0123456789-_", min_size=1, max_size=63)


@given(st.lists(_label, min_size=1, max_size=4), st.integers(0, 0xFFFF), st.integers(1, 255))
def test_a_question_is_read_as_it_was_asked(labels, ident, kind):
    name = ".".join(labels)
    question = wire.parse(wire.query(ident, name, kind))
    assert (question.ident, question.name, question.kind) == (ident, name, kind)


def test_a_name_that_cannot_be_encoded_is_refused():
    with pytest.raises(ValueError, match="1 to 63 bytes"):
        wire.encode_name("a..b")


MACHINE = "nameserver 192.0.2.53\nsearch example.com\noptions timeout:1\n"


def conf(**spec):
    pod = {"metadata": {"namespace": "ns"}, "spec": spec}
    return resolv_conf(pod, "10.200.0.1", DOMAIN, MACHINE).splitlines()


def test_resolv_conf_follows_the_dns_policy():
    ours = [
        "nameserver 10.200.0.1",
        "search ns.svc.cluster.local svc.cluster.local cluster.local example.com",
        "options ndots:5",
    ]
    machines = MACHINE.splitlines()
    assert conf() == ours
    assert conf(dnsPolicy="Default") == machines
    assert conf(hostNetwork=True, dnsPolicy="ClusterFirst") == machines
    assert conf(hostNetwork=True, dnsPolicy="ClusterFirstWithHostNet") == ours
    config = {
        "nameservers": ["192.0.2.9"],
        "searches": ["x.y"],
        "options": [{"name": "ndots", "value": "2"}, {"name": "edns0"}],
    }
    assert conf(dnsPolicy="None", dnsConfig=config) == [
        "nameserver 192.0.2.9",
        "search x.y",
        "options ndots:2 edns0",
    ]
    assert conf(dnsConfig=config)[-1] == "options ndots:2 edns0"
