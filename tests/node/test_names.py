"""Names and addresses: what pods resolve, which addresses they get."""

from __future__ import annotations

import os

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kubarium.base.errors import KubariumError
from kubarium.node.network.addresses import AddressPool
from kubarium.node.network.hosts import write_in_place
from kubarium.node.network.names import (
    HostnameTooLong,
    NameSources,
    kernel_hostname,
    namespace_lines,
    own_lines,
    pod_hostname,
)


def pod(name, ip, namespace="ns", ready=True, phase="Running", **spec):
    return {
        "metadata": {"name": name, "namespace": namespace, "labels": {"app": "x"}},
        "spec": spec,
        "status": {
            "podIP": ip,
            "phase": phase,
            "conditions": [{"type": "Ready", "status": "True" if ready else "False"}],
        },
    }


def service(name, ip="None", namespace="ns", **spec):
    selector = {"selector": {"app": "x"}} if ip == "None" else {}
    return {
        "metadata": {"name": name, "namespace": namespace},
        "spec": {"clusterIP": ip} | selector | spec,
    }


def resolve(name, namespace, pods, services):
    """The addresses that a pod of ``namespace`` finds for ``name``."""
    sources = NameSources(
        lambda wanted: [p for p in pods if p["metadata"]["namespace"] == wanted],
        lambda wanted: services,
    )
    found = []
    for line in namespace_lines(namespace, sources, "cluster.local").splitlines():
        address, *names = line.split()
        if name in names and address not in found:
            found.append(address)
    return found


PODS = [
    pod("a", "127.64.0.1", hostname="js-w-0-0", subdomain="js"),
    pod("b", "127.64.0.2", hostname="js-w-1-0", subdomain="js"),
    pod("c", "127.64.0.3", ready=False, hostname="js-w-2-0", subdomain="js"),
    pod("d", "127.64.0.4", phase="Failed", hostname="js-w-3-0", subdomain="js"),
]


def test_pods_of_a_headless_service_resolve_in_all_forms():
    services = [service("js")]
    for name in (
        "js-w-0-0.js",
        "js-w-0-0.js.ns",
        "js-w-0-0.js.ns.svc",
        "js-w-0-0.js.ns.svc.cluster.local",
    ):
        assert resolve(name, "ns", PODS, services) == ["127.64.0.1"]
    assert resolve("js-w-0-0.js", "other", PODS, services) == []
    assert resolve("js-w-0-0.js.ns", "other", PODS, services) == ["127.64.0.1"]
    assert resolve("js", "ns", PODS, services) == ["127.64.0.1", "127.64.0.2"]


def test_unready_pods_resolve_only_where_the_service_says_so():
    assert resolve("js-w-2-0.js", "ns", PODS, [service("js")]) == []
    published = [service("js", publishNotReadyAddresses=True)]
    assert resolve("js-w-2-0.js", "ns", PODS, published) == ["127.64.0.3"]
    assert resolve("js-w-3-0.js", "ns", PODS, published) == [], "a pod that has ended is gone"


def test_services_resolve_to_their_cluster_ip():
    services = [service("web", "127.96.0.7")]
    assert resolve("web", "ns", [], services) == ["127.96.0.7"]
    assert resolve("web", "other", [], services) == []
    assert resolve("web.ns", "other", [], services) == ["127.96.0.7"]


def test_a_pods_own_lines():
    aliases = [{"ip": "10.0.0.1", "hostnames": ["db", "db.local"]}]
    text = own_lines(pod("a", "", hostAliases=aliases), "127.64.0.9", "cluster.local")
    assert "127.64.0.9\ta\n" in text
    assert "10.0.0.1\tdb db.local\n" in text
    text = own_lines(PODS[0], "127.64.0.1", "cluster.local")
    assert "127.64.0.1\tjs-w-0-0.js.ns.svc.cluster.local js-w-0-0\n" in text


def test_hostname_is_the_full_name_where_it_is_asked_for_and_the_nodes_in_its_network():
    spec = {"hostname": "h", "subdomain": "s", "setHostnameAsFQDN": True}
    pod = {"metadata": {"name": "p", "namespace": "ns"}, "spec": spec}
    assert kernel_hostname(pod, "cluster.local") == "h.s.ns.svc.cluster.local"
    assert kernel_hostname(pod | {"spec": spec | {"setHostnameAsFQDN": False}}, "x") == "h"
    assert kernel_hostname(pod | {"spec": {"setHostnameAsFQDN": True}}, "x") == "p"
    of_node = {"hostNetwork": True, "nodeName": "node-7"}
    assert kernel_hostname(pod | {"spec": spec | of_node}, "x") == "node-7"
    with pytest.raises(HostnameTooLong, match=r"64 characters is the max, 72 characters"):
        kernel_hostname(pod | {"spec": spec | {"hostname": "h" * 49}}, "cluster.local")


def test_hostnames_are_cut_to_what_a_hostname_may_be():
    assert pod_hostname(pod("x" * 62 + "-abc", "")) == "x" * 62
    assert pod_hostname(pod("a", "", hostname="b")) == "b"


@given(st.lists(st.tuples(st.booleans(), st.integers(0, 20)), max_size=60))
def test_addresses_are_lent_to_one_owner_at_a_time(steps):
    pool, lent = AddressPool("127.64.0.0/26"), {}
    for take, number in steps:
        owner = str(number)
        if take:
            address = pool.lend(owner)
            assert lent.get(owner, address) == address
            assert address not in {a for o, a in lent.items() if o != owner}
            assert address.rsplit(".", 1)[1] not in ("0", "255")
            lent[owner] = address
        else:
            pool.give_back(owner)
            lent.pop(owner, None)


def test_addresses_of_both_families_are_written_as_they_are_usually():
    assert AddressPool("127.64.0.0/12").lend("a") == "127.64.0.1"
    assert AddressPool("fd00:0:0:1::/64").lend("a") == "fd00:0:0:1::1"


def test_an_address_is_reused_as_late_as_possible():
    pool = AddressPool("127.64.0.0/24")
    first = pool.lend("a")
    pool.give_back("a")
    assert pool.lend("b") != first


def test_clusters_side_by_side_begin_at_different_places():
    one, other = (AddressPool("127.64.0.0/12", seed).lend("a") for seed in ("/a", "/b"))
    assert one != other


def test_every_address_of_a_network_can_be_lent_from_any_start():
    pool = AddressPool("127.64.0.0/23", "somewhere")
    addresses = {pool.lend(str(number)) for number in range(508)}
    assert len(addresses) == 508
    with pytest.raises(KubariumError, match="no address left"):
        pool.lend("one more")


@given(st.lists(st.text(max_size=200), max_size=5))
def test_hosts_files_keep_their_inode(tmp_path_factory, texts):
    path = tmp_path_factory.mktemp("hosts") / "hosts"
    path.write_text("start")
    inode = os.stat(path).st_ino
    for text in texts:
        write_in_place(path, text)
        assert path.read_bytes() == text.encode()
    assert os.stat(path).st_ino == inode
