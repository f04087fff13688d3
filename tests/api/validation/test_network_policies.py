"""NetworkPolicies: what is refused, in upstream's words."""

import pytest

from .test_kinds import complaints, update_complaints

GOOD = """
spec:
  podSelector: {matchLabels: {app: db}}
  policyTypes: [Ingress, Egress]
  ingress:
    - ports: [{port: 80}, {port: a, protocol: UDP}, {port: 1, endPort: 2, protocol: SCTP}, {}]
      from:
        - podSelector: {}
          namespaceSelector: {matchLabels: {team: a}}
        - ipBlock: {cidr: 10.0.0.0/8, except: [10.1.0.0/16, 10.2.3.4/32]}
        - ipBlock: {cidr: "2001:db8::/64", except: ["2001:db8::/65"]}
  egress: [{}]
"""


def test_a_policy_with_all_there_is_passes():
    assert complaints("NetworkPolicy", GOOD) == []
    assert update_complaints("NetworkPolicy", GOOD, GOOD) == []


def rule(text):
    return f"spec: {{podSelector: {{}}, ingress: [{text}]}}"


PORTS, FROM = "spec.ingress[0].ports[0]", "spec.ingress[0].from[0]"
EXCEPT = f"{FROM}.ipBlock.except[0]"
BAD = [
    (
        rule("{ports: [{protocol: ICMP}]}"),
        f'{PORTS}.protocol: Unsupported value: "ICMP": supported values: "SCTP", "TCP", "UDP"',
    ),
    (
        rule("{ports: [{port: 0}]}"),
        f"{PORTS}.port: Invalid value: 0: must be between 1 and 65535, inclusive",
    ),
    (
        rule("{ports: [{port: -a}]}"),
        f'{PORTS}.port: Invalid value: "-a": must not begin or end with a hyphen',
    ),
    (
        rule("{ports: [{endPort: 9}]}"),
        f"{PORTS}.endPort: Invalid value: 9: may not be specified when `port` is not specified",
    ),
    (
        rule("{ports: [{port: web, endPort: 9}]}"),
        f"{PORTS}.endPort: Invalid value: 9: may not be specified when `port` is non-numeric",
    ),
    (
        rule("{ports: [{port: 10, endPort: 9}]}"),
        f"{PORTS}.endPort: Invalid value: 9: must be greater than or equal to `port`",
    ),
    (
        rule("{ports: [{port: 10, endPort: 70000}]}"),
        f"{PORTS}.endPort: Invalid value: 70000: must be between 1 and 65535, inclusive",
    ),
    (rule("{from: [{}]}"), f"{FROM}: Required value: must specify a peer"),
    (
        rule("{from: [{podSelector: {}, ipBlock: {cidr: 10.0.0.0/8}}]}"),
        f"{FROM}: Forbidden: may not specify both ipBlock and another peer",
    ),
    (rule("{from: [{ipBlock: {cidr: ''}}]}"), f"{FROM}.ipBlock.cidr: Required value"),
    (
        rule("{from: [{ipBlock: {cidr: 10.0.0.0}}]}"),
        f'{FROM}.ipBlock.cidr: Invalid value: "10.0.0.0": must be a valid CIDR value, '
        "(e.g. 10.9.8.0/24 or 2001:db8::/64)",
    ),
    (
        rule("{from: [{ipBlock: {cidr: 10.0.0.0/8, except: [11.0.0.0/16]}}]}"),
        f'{EXCEPT}: Invalid value: "11.0.0.0/16": must be a strict subset of `cidr`',
    ),
    (
        rule("{from: [{ipBlock: {cidr: 10.0.0.0/8, except: [10.0.0.0/8]}}]}"),
        f'{EXCEPT}: Invalid value: "10.0.0.0/8": must be a strict subset of `cidr`',
    ),
    (
        "spec: {podSelector: {}, policyTypes: [Ingress, Egress, Ingress]}",
        "spec.policyTypes: Invalid value: ",
    ),
    (
        "spec: {podSelector: {}, policyTypes: [Both]}",
        'spec.policyTypes[0]: Unsupported value: "Both": supported values: "Egress", "Ingress"',
    ),
    (
        "spec: {podSelector: {matchExpressions: [{key: a, operator: In}]}}",
        "spec.podSelector.matchExpressions[0].values: Required value",
    ),
]


@pytest.mark.parametrize(("text", "complaint"), BAD, ids=[text for _, text in BAD])
def test_what_is_wrong_is_named_once(text, complaint):
    found = complaints("NetworkPolicy", text)
    assert len(found) == 1, found
    assert found[0].startswith(complaint), found
