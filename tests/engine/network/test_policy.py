"""Network policies decided: the examples of the API's own documentation, and their properties."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from kubarium.engine.network.policy import (
    Block,
    NetworkPod,
    NetworkPolicy,
    Pods,
    PolicyPort,
    PolicyRule,
    decide,
    permits,
)
from kubarium.engine.network.ranges import EVERYWHERE, contains, union, without
from kubarium.engine.selectors import LabelSelector, Requirement

ANY = LabelSelector()


def having(**labels):
    return LabelSelector(tuple(Requirement(k, "In", (v,)) for k, v in labels.items()))


def pod(address, namespace="a", ports=(), **labels):
    team = {"team": namespace}
    return NetworkPod(address, namespace, labels, team, dict(ports))


WEB = pod(1, app="web", ports={("http", "TCP"): 8080})
CLIENT = pod(2, app="client")
OTHER = pod(3, namespace="b", app="client")
WORLD = [WEB, CLIENT, OTHER]
OUTSIDE = 1000


def reaches(policies, source, target, protocol="TCP", port=8080):
    return permits(decide(policies, WORLD), source, target, protocol, port)


def test_without_policies_everyone_reaches_everyone():
    assert decide([], WORLD) == {}
    assert reaches([], 2, 1)


def test_a_policy_without_rules_closes_a_direction_for_the_pods_it_selects():
    deny = NetworkPolicy("a", having(app="web"), ingress=())
    assert not reaches([deny], 2, 1)
    assert not reaches([deny], OUTSIDE, 1)
    assert reaches([deny], 1, 2), "the other direction stays open"
    assert reaches([deny], 3, 2), "and so do other pods"
    shut = NetworkPolicy("a", ANY, egress=())
    assert not reaches([shut], 1, 2)
    assert not reaches([shut], 1, OUTSIDE)
    assert reaches([shut], 3, 1), "a policy selects pods of its own namespace only"


def test_an_empty_rule_allows_everyone():
    assert reaches([NetworkPolicy("a", ANY, ingress=(PolicyRule(),))], OUTSIDE, 1)


def test_a_rule_without_valid_peers_allows_nobody():
    assert not reaches([NetworkPolicy("a", ANY, ingress=(PolicyRule(peers=()),))], 2, 1)


def test_peers_are_of_the_own_namespace_unless_namespaces_are_selected():
    own = NetworkPolicy("a", ANY, ingress=(PolicyRule((Pods(having(app="client")),)),))
    assert reaches([own], 2, 1)
    assert not reaches([own], 3, 1)
    team_b = Pods(having(app="client"), having(team="b"))
    others = NetworkPolicy("a", ANY, ingress=(PolicyRule((team_b,)),))
    assert not reaches([others], 2, 1)
    assert reaches([others], 3, 1)
    everywhere = NetworkPolicy("a", ANY, ingress=(PolicyRule((Pods(ANY, ANY),)),))
    assert reaches([everywhere], 2, 1)
    assert reaches([everywhere], 3, 1)
    assert not reaches([everywhere], OUTSIDE, 1), "pods, not addresses"


def test_a_block_excepts_parts_of_itself():
    block = Block((900, 1100), ((990, 1000), (1050, 1060)))
    policy = NetworkPolicy("a", ANY, ingress=(PolicyRule((block,)),))
    assert [reaches([policy], source, 1) for source in (900, 989, 990, 1000, 1001, 1055)] == [
        True,
        True,
        False,
        False,
        True,
        False,
    ]


def test_ports_narrow_a_rule():
    ports = (PolicyPort("TCP", 8000, 8999), PolicyPort("UDP"))
    policy = NetworkPolicy("a", having(app="web"), ingress=(PolicyRule(None, ports),))
    assert reaches([policy], 2, 1, "TCP", 8999)
    assert not reaches([policy], 2, 1, "TCP", 9000)
    assert reaches([policy], 2, 1, "UDP", 53)
    assert not reaches([policy], 2, 1, "SCTP", 8080)


def test_a_named_port_is_the_reached_pods():
    named = PolicyRule(None, (PolicyPort("TCP", name="http"),))
    enter = NetworkPolicy("a", ANY, ingress=(named,))
    assert reaches([enter], 3, 1, "TCP", 8080)
    assert not reaches([enter], 3, 1, "TCP", 8081)
    assert not reaches([enter], 1, 2, "TCP", 8080), "the client calls no port so"
    leave = NetworkPolicy("b", ANY, egress=(named,))
    assert reaches([leave], 3, 1, "TCP", 8080)
    assert not reaches([leave], 3, 2, "TCP", 8080)


def test_both_ends_have_to_allow_it():
    leave = NetworkPolicy("b", ANY, egress=(PolicyRule((Pods(ANY, ANY),)),))
    enter = NetworkPolicy("a", ANY, ingress=(PolicyRule((Pods(ANY),)),))
    assert reaches([leave], 3, 1)
    assert not reaches([leave, enter], 3, 1)


# Properties ------------------------------------------------------------------------------------

_ranges = st.lists(
    st.tuples(st.integers(0, 60), st.integers(0, 12)).map(lambda p: (p[0], p[0] + p[1])), max_size=6
)


def members(ranges):
    return {n for first, last in ranges for n in range(first, last + 1)}


@given(_ranges, _ranges)
def test_ranges_are_sets(one, other):
    both, rest = union([*one, *other]), without(one, other)
    assert members(both) == members(one) | members(other)
    assert members(rest) == members(one) - members(other)
    for found in (both, rest):
        assert all(a[1] + 1 < b[0] for a, b in pairwise(found))
    assert all(contains(both, n) == (n in members(both)) for n in range(75))


_labels = st.dictionaries(st.sampled_from("xy"), st.sampled_from("12"), max_size=2)
_selectors = _labels.map(lambda labels: having(**labels))
_pods = st.lists(
    st.tuples(st.sampled_from("ab"), _labels, st.booleans()), min_size=1, max_size=5
).map(
    lambda found: [
        NetworkPod(
            10 + index,
            namespace,
            labels,
            {"team": namespace},
            {("http", "TCP"): 80 + index} if named else {},
        )
        for index, (namespace, labels, named) in enumerate(found)
    ]
)
_blocks = st.builds(
    Block,
    st.integers(8, 16).map(lambda n: (n, n + 3)),
    st.lists(st.integers(8, 18).map(lambda n: (n, n + 1)), max_size=2).map(tuple),
)
_peers = st.one_of(
    _blocks,
    st.builds(
        Pods, _selectors, st.none() | st.sampled_from("ab").map(lambda team: having(team=team))
    ),
)
_ports = st.one_of(
    st.integers(80, 83).map(lambda n: PolicyPort("TCP", n, n + 1)),
    st.just(PolicyPort("UDP")),
    st.just(PolicyPort("TCP", name="http")),
)
_rules = st.builds(
    PolicyRule,
    st.none() | st.lists(_peers, max_size=2).map(tuple),
    st.none() | st.lists(_ports, min_size=1, max_size=2).map(tuple),
)
_directions = st.none() | st.lists(_rules, max_size=2).map(tuple)
_policies = st.lists(
    st.builds(NetworkPolicy, st.sampled_from("ab"), _selectors, _directions, _directions),
    max_size=3,
)


def allowed_by_the_letter(policies, pods, source, target, protocol, port):
    """The API's text, read literally for one connection; knows nothing of ranges."""
    by_address = {p.address: p for p in pods}

    def port_matches(rule):
        if rule.ports is None:
            return True
        reached = by_address.get(target)
        for entry in rule.ports:
            if entry.protocol != protocol:
                continue
            if entry.name:
                if reached and reached.ports.get((entry.name, protocol)) == port:
                    return True
            elif entry.first <= port <= entry.last:
                return True
        return False

    def peer_matches(rule, policy, peer):
        if rule.peers is None:
            return True
        for entry in rule.peers:
            if isinstance(entry, Block):
                inside = entry.addresses[0] <= peer <= entry.addresses[1]
                if inside and not any(a <= peer <= b for a, b in entry.excepted):
                    return True
                continue
            found = by_address.get(peer)
            if found is None or not entry.pods.matches(found.labels):
                continue
            if entry.namespaces is None and found.namespace == policy.namespace:
                return True
            if entry.namespaces and entry.namespaces.matches(found.namespace_labels):
                return True
        return False

    for mine, peer, direction in ((source, target, "egress"), (target, source, "ingress")):
        if mine not in by_address:
            continue
        chosen = [
            (policy, getattr(policy, direction))
            for policy in policies
            if policy.namespace == by_address[mine].namespace
            and policy.selector.matches(by_address[mine].labels)
            and getattr(policy, direction) is not None
        ]
        if chosen and not any(
            peer_matches(rule, policy, peer) and port_matches(rule)
            for policy, rules in chosen
            for rule in rules
        ):
            return False
    return True


@given(
    _policies,
    _pods,
    st.integers(8, 18),
    st.integers(8, 18),
    st.sampled_from(["TCP", "UDP", "SCTP"]),
    st.integers(79, 86),
)
def test_the_decision_is_the_text_of_the_api(policies, pods, source, target, protocol, port):
    expected = source == target or allowed_by_the_letter(
        policies, pods, source, target, protocol, port
    )
    assert permits(decide(policies, pods), source, target, protocol, port) == expected


@given(_policies, _pods, st.integers(8, 18), st.integers(8, 18), st.integers(79, 86))
def test_a_further_rule_never_closes_what_was_open(policies, pods, source, target, port):
    if not permits(decide(policies, pods), source, target, "TCP", port):
        return
    for direction in ("ingress", "egress"):
        more = [
            replace(p, **{direction: (*getattr(p, direction), PolicyRule(ports=()))})
            for p in policies
            if getattr(p, direction) is not None
        ]
        kept = [p for p in policies if getattr(p, direction) is None]
        assert permits(decide([*more, *kept], pods), source, target, "TCP", port)


@given(_pods)
def test_a_pod_open_to_everyone_is_open_everywhere(pods):
    found = decide([NetworkPolicy("a", ANY, ingress=(PolicyRule(),))], pods)
    assert all(rule.peers == EVERYWHERE for access in found.values() for rule in access.ingress)
