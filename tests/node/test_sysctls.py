"""Kernel settings of pods: taken or refused as by kubelet, and what a network can have."""

import pytest

from kubarium.node import sysctls


def pod(*names):
    asked = [{"name": name, "value": "1"} for name in names]
    return {"spec": {"securityContext": {"sysctls": asked}}}


def test_safe_settings_are_taken_and_others_refused_by_name():
    assert sysctls.refused({"spec": {}}, ()) is None
    assert sysctls.refused(pod("net.ipv4.tcp_syncookies", "kernel.shm_rmid_forced"), ()) is None
    reason, message = sysctls.refused(pod("net.ipv4.tcp_rmem", "net.core.somaxconn"), ())
    assert reason == "SysctlForbidden"
    assert message == 'forbidden sysctl: "net.core.somaxconn" not allowlisted'


@pytest.mark.parametrize(
    ("allowed", "taken"),
    [
        (("net.core.somaxconn",), True),
        (("net.core.*",), True),
        (("kernel.msg*", "net.*"), True),
        (("net.core",), False),
        (("kernel.*",), False),
    ],
)
def test_a_pool_allows_more(allowed, taken):
    assert (sysctls.refused(pod("net.core.somaxconn"), allowed) is None) == taken
    assert (sysctls.refused(pod("net/core/somaxconn"), allowed) is None) == taken


def test_only_a_networks_own_can_be_had():
    asked = pod("net.core.somaxconn", "kernel.msgmax", "net/ipv4/tcp_rmem")
    assert sysctls.of_network(asked) == {"net.core.somaxconn": "1", "net.ipv4.tcp_rmem": "1"}
    assert sysctls.not_applied(asked) == ["kernel.msgmax"]
