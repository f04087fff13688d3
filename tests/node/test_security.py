"""securityContext on real processes, and the filter that RuntimeDefault stands for."""

from __future__ import annotations

import asyncio
import os
import struct
import subprocess

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kubarium.node import isolation
from kubarium.node.runtimes.process import linux, seccomp

from .conftest import process_world

# The filter ------------------------------------------------------------------------------------

X86, ARM = 0xC000003E, 0xC00000B7


def judged(program, architecture, number, argument=0):
    """What the kernel would make of a call: an interpreter of the few instructions we use."""
    data = struct.pack("=IIQ6Q", number, architecture, 0, argument, 0, 0, 0, 0, 0)
    steps = [struct.unpack_from("=HBBI", program, at) for at in range(0, len(program), 8)]
    at, loaded = 0, 0
    while True:
        code, if_true, if_false, value = steps[at]
        at += 1
        if code == 0x20:
            (loaded,) = struct.unpack_from("=I", data, value)
        elif code == 0x06:
            return value
        else:
            holds = {0x15: loaded == value, 0x35: loaded >= value, 0x45: bool(loaded & value)}[code]
            at += if_true if holds else if_false


@given(
    st.sampled_from([("x86_64", X86, 0), ("aarch64", ARM, 1)]),
    st.integers(0, 500),
    st.lists(st.sampled_from(sorted(linux.CAPABILITIES)), max_size=3),
)
def test_each_call_is_judged_by_the_table(machine, number, capabilities):
    name, architecture, column = machine
    program = seccomp.runtime_default(name, capabilities)
    clone = {"x86_64": 56, "aarch64": 220}[name]
    denied = any(
        entry[column] == number and not set(entry[2]) & set(capabilities)
        for entry in seccomp.DENIED.values()
    )
    expected = seccomp.NOT_PERMITTED if denied else seccomp.ALLOW
    if number == 435 and "SYS_ADMIN" not in capabilities:
        expected = seccomp.NO_SUCH_CALL
    assert judged(program, architecture, number) == expected
    for flag in (0x20000, 0x10000000, 0x40000000):
        expected = seccomp.ALLOW if "SYS_ADMIN" in capabilities else seccomp.NOT_PERMITTED
        assert judged(program, architecture, clone, flag | 17) == expected
    assert judged(program, architecture, clone, 0x3D0F00) == seccomp.ALLOW, "a thread"


def test_other_architectures_numbers_are_not_mistaken_for_ours():
    program = seccomp.runtime_default("x86_64", [])
    assert judged(program, ARM, 0) == seccomp.NO_SUCH_CALL
    assert judged(program, X86, 0x40000000 | 1) == seccomp.NO_SUCH_CALL
    assert seccomp.runtime_default("riscv64", []) == b""


# Real processes --------------------------------------------------------------------------------

LEVELS = [isolation.PLAIN, isolation.USER_NAMESPACE, isolation.ROOT]
PROFILE = {"seccompProfile": {"type": "RuntimeDefault"}}
TRY = """
import ctypes, os, threading
libc = ctypes.CDLL(None, use_errno=True)
def call(name, number, *arguments):
    result = libc.syscall(number, *arguments)
    print(name, os.strerror(ctypes.get_errno()) if result < 0 else "done")
call("keyctl", {keyctl}, 0, 0, 0)
call("unshare", {unshare}, 0x10000000)
thread = threading.Thread(target=lambda: print("thread done"))
thread.start()
thread.join()
"""
NUMBERS = {"x86_64": 0, "aarch64": 1}


@pytest.fixture(params=LEVELS)
def level(request):
    if request.param == isolation.ROOT and os.geteuid() != 0:
        pytest.skip("needs root")
    if request.param == isolation.USER_NAMESPACE:
        done = subprocess.run(["unshare", "-Urm", "true"], capture_output=True)
        if done.returncode:
            pytest.skip("user namespaces are not to be had on this machine")
    return request.param


def program():
    column = NUMBERS.get(os.uname().machine)
    if column is None:
        pytest.skip("call numbers of this machine are not known")
    numbers = {name: seccomp.DENIED[name][column] for name in ("keyctl", "unshare")}
    return TRY.format(**numbers)


def outputs(level, script, **pods):
    """What each pod printed; by name its container's or (``pod=``) its own security context."""

    async def main():
        async with process_world(level) as world:
            found = {}
            for name, contexts in pods.items():
                container = {"securityContext": contexts.get("container", {})}
                await world.pod(
                    name, script, container=container, securityContext=contexts.get("pod", {})
                )
                found[name] = await world.output(name)
            return found

    return asyncio.run(main())


def test_runtime_default_refuses_what_containers_have_no_use_for(level):
    found = outputs(
        level,
        f"exec python3 -c '{program()}'",
        confined={"container": PROFILE},
        whole={"pod": PROFILE},
        open={},
        freed={"pod": PROFILE, "container": {"seccompProfile": {"type": "Unconfined"}}},
    )
    refused = "keyctl Operation not permitted\nunshare Operation not permitted\nthread done\n"
    assert found["confined"] == found["whole"] == refused
    assert "unshare done" in found["open"]
    assert found["open"] == found["freed"]


def status_of(text):
    return dict(line.split(":\t", 1) for line in text.splitlines() if ":\t" in line)


def test_the_kernel_shows_what_a_container_may(tmp_path):
    if os.geteuid() != 0:
        pytest.skip("needs root: users and capabilities")
    locked = {
        "runAsUser": 1234,
        "runAsGroup": 2345,
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    } | PROFILE
    script = "cat /proc/self/status; touch /etc/x 2>&1; id"
    found = outputs(
        isolation.ROOT,
        script,
        locked={"container": locked, "pod": {"fsGroup": 3456, "supplementalGroups": [4567]}},
        plain={},
        more={"container": {"capabilities": {"add": ["SYS_TIME"], "drop": ["CHOWN"]}}},
        privileged={"container": {"privileged": True} | PROFILE},
    )
    locked_status, plain = status_of(found["locked"]), status_of(found["plain"])
    assert locked_status["NoNewPrivs"] == "1"
    assert locked_status["Seccomp"] == "2"
    assert int(locked_status["CapBnd"], 16) == int(locked_status["CapEff"], 16) == 0
    assert "uid=1234 gid=2345" in found["locked"]
    assert {"3456", "4567"} <= set(locked_status["Groups"].split())
    assert "Read-only file system" in found["locked"]
    assert (plain["NoNewPrivs"], plain["Seccomp"]) == ("0", "0")
    assert "Read-only" not in found["plain"]
    usual = sum(1 << linux.CAPABILITIES[name] for name in linux.DEFAULT_CAPABILITIES)
    assert int(plain["CapBnd"], 16) == int(plain["CapEff"], 16) == usual
    more = int(status_of(found["more"])["CapEff"], 16)
    changed = (1 << linux.CAPABILITIES["SYS_TIME"]) | (1 << linux.CAPABILITIES["CHOWN"])
    assert more == usual ^ changed
    assert status_of(found["privileged"])["Seccomp"] == "0"


def test_a_user_other_than_root_is_filtered_too(level):
    if level == isolation.PLAIN and os.geteuid() == 0:
        context = PROFILE
    else:
        context = PROFILE | {"runAsUser": 1234, "runAsGroup": 1234}
    found = outputs(level, "grep Seccomp: /proc/self/status", other={"container": context})
    assert found["other"].split() == ["Seccomp:", "2"]


def test_what_cannot_be_had_is_an_event(level):
    async def main():
        async with process_world(level) as world:
            context = {
                "seccompProfile": {"type": "Localhost", "localhostProfile": "strict.json"},
                "seLinuxOptions": {"level": "s0"},
            }
            await world.pod(
                "p",
                "true",
                container={"securityContext": context},
                securityContext={"sysctls": [{"name": "kernel.shm_rmid_forced", "value": "1"}]},
            )
            await world.phase("p", "Succeeded")
            text = await world.event("p", "SecurityContextNotApplied")
            for part in ("strict.json", "SELinux options", "kernel.shm_rmid_forced"):
                assert part in text
            if level == isolation.PLAIN:
                return  # where all share the machine's, there is nothing to share
            await world.pod("q", "true", hostPID=True, hostIPC=True)
            assert "hostPID; hostIPC" in await world.event("q", "SecurityContextNotApplied")
            if level == isolation.ROOT:
                await world.pod("r", "true", hostUsers=False)
                assert "hostUsers" in await world.event("r", "SecurityContextNotApplied")

    asyncio.run(main())


def test_unsafe_settings_of_the_kernel_are_refused(level):
    async def main():
        async with process_world(level) as world:
            asked = [{"name": "kernel.msgmax", "value": "1"}]
            await world.pod("p", "true", securityContext={"sysctls": asked})
            status = (await world.phase("p", "Failed"))["status"]
            assert status["reason"] == "SysctlForbidden"
            assert status["message"] == (
                'Pod was rejected: forbidden sysctl: "kernel.msgmax" not allowlisted'
            )

    asyncio.run(main())
