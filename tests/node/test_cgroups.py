"""Control groups: amounts, both versions' files, limits on real processes, nothing left behind."""

from __future__ import annotations

import asyncio
import hashlib
import os
import signal
import sys
import tempfile
import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kubarium.node.config import PROCESS, NodeConfig, NodeSpec
from kubarium.node.runtimes.process.cgroups import (
    Amounts,
    Cgroups,
    container_amounts,
    pod_amounts,
)

from .conftest import RealClock, none_left, process_world, processes_with, world_on

MI = 1 << 20
HOG = f"exec {sys.executable} -c 'import time; b = bytearray(80 << 20); time.sleep(30)'"


def limited(memory="", cpu="", **more):
    limits = {k: v for k, v in (("memory", memory), ("cpu", cpu)) if v}
    return {"resources": {"limits": limits, "requests": limits}, **more}


@pytest.fixture
def groups():
    found = Cgroups.open(f"test-{os.getpid()}")
    try:
        if "memory" not in found.controllers:
            pytest.skip(f"control groups are not to be had: {found.shortfall}")
        yield found
    finally:
        found.close()
    assert not [folder for folder in found.folders if os.path.exists(folder)]


# Amounts -------------------------------------------------------------------------------------


def test_a_container_s_amounts_round_cpu_up_and_default_the_request_to_the_limit():
    found = container_amounts({"limits": {"memory": "64Mi", "cpu": "0.0015"}})
    assert (found.memory, found.milli_cpu, found.milli_cpu_request) == (64 * MI, 2, 2)
    assert container_amounts(None) == Amounts()


def test_a_pod_is_limited_only_if_every_container_is_and_init_containers_count_by_the_largest():
    def pod(**spec):
        return pod_amounts({"spec": spec}, pids=None)

    small, large = limited("64Mi", "1"), limited("256Mi", "500m")
    assert pod(containers=[small, {}]).memory is None
    both = pod(containers=[small, small])
    assert (both.memory, both.milli_cpu) == (128 * MI, 2000)
    assert pod(containers=[small], initContainers=[large]).memory == 256 * MI
    sidecar = {**large, "restartPolicy": "Always"}
    assert pod(containers=[small], initContainers=[sidecar]).memory == 320 * MI
    own = pod(containers=[small, {}], resources={"limits": {"memory": "1Gi"}})
    assert own.memory == 1024 * MI


@given(st.integers(0, 300_000))
def test_shares_and_weight_stay_in_the_kernel_s_ranges_and_grow_together(milli):
    less, more = Amounts(milli_cpu_request=milli), Amounts(milli_cpu_request=milli + 1000)
    assert 2 <= less.shares <= more.shares <= 262_144
    assert 1 <= less.weight <= more.weight <= 10_000


def test_a_quota_is_never_below_what_the_kernel_takes():
    assert Amounts(milli_cpu=1).quota_us == 1000
    assert Amounts(milli_cpu=1500).quota_us == 150_000
    assert Amounts().quota_us is None


# Version 2, on a tree that only looks like it ---------------------------------------------------


def fake_machine(tmp_path, *, subtree="memory cpu pids", procs=""):
    """A cgroup2 mount with our group in it, and the files of /proc that lead there."""
    top = tmp_path / "cgroup"
    own = top / "user"
    own.mkdir(parents=True)
    for folder in (top, own):
        (folder / "cgroup.procs").write_text(procs)
        (folder / "cgroup.controllers").write_text("cpu memory pids io")
        (folder / "cgroup.subtree_control").write_text(subtree)
    proc = tmp_path / "proc"
    proc.mkdir()
    (proc / "cgroup").write_text("0::/user\n")
    (proc / "mountinfo").write_text(f"31 23 0:28 / {top} rw - cgroup2 cgroup2 rw,nsdelegate\n")
    return own, str(proc)


def made_by_the_kernel(monkeypatch):
    real = Path.mkdir

    def mkdir(self, *arguments, **options):
        real(self, *arguments, **options)
        if "kubarium-" in str(self):
            for name in ("memory.max", "memory.swap.max", "memory.oom.group", "cpu.weight"):
                (self / name).touch()
            for name in ("cpu.max", "pids.max", "cgroup.procs", "cgroup.subtree_control"):
                (self / name).touch()
            (self / "cgroup.controllers").write_text("memory cpu pids")

    monkeypatch.setattr(Path, "mkdir", mkdir)


def test_version_2_limits_are_written_where_the_controllers_are_handed_down(tmp_path, monkeypatch):
    made_by_the_kernel(monkeypatch)
    own, proc = fake_machine(tmp_path, procs="1\n")
    groups = Cgroups.open("t", proc)
    assert groups.controllers == ("memory", "cpu", "pids")
    groups.create_pod("uid", Amounts(pids=10))
    groups.create_container("uid", "c_0", Amounts(64 * MI, 1500, 500))
    folder = own / "kubarium-t" / "uid" / "c_0"
    assert (folder / "memory.max").read_text() == str(64 * MI)
    assert (folder / "memory.oom.group").read_text() == "1"
    assert (folder / "cpu.max").read_text() == "150000 100000"
    assert (folder / "cpu.weight").read_text() == "20"
    assert (own / "kubarium-t" / "uid" / "pids.max").read_text() == "10"
    assert groups.joins("uid", "c_0") == [str(folder / "cgroup.procs")]


def test_version_2_without_delegation_is_a_shortfall_and_no_error(tmp_path):
    _, proc = fake_machine(tmp_path, subtree="", procs="1\n")
    for folder in (tmp_path / "cgroup", tmp_path / "cgroup/user"):
        (folder / "cgroup.subtree_control").chmod(0o444)
        (folder / "cgroup.controllers").write_text("")
    groups = Cgroups.open("t", proc)
    assert groups.controllers == ()
    assert groups.shortfall


def test_a_machine_without_control_groups_is_a_shortfall_and_no_error(tmp_path):
    groups = Cgroups.open("t", str(tmp_path))
    assert groups.hierarchies == []
    assert "control groups" in groups.shortfall


# The kernel's ----------------------------------------------------------------------------------


def test_opening_is_quick_and_clears_what_an_earlier_agent_left(groups):
    groups.create_pod("left-over", Amounts())
    groups.create_container("left-over", "c_0", Amounts(64 * MI))
    left = groups.folders
    begun = time.perf_counter()
    again = Cgroups.open(f"test-{os.getpid()}")
    assert time.perf_counter() - begun < 0.05
    assert again.folders == left
    assert not [p for folder in left for p in Path(folder).iterdir() if p.is_dir()]


def test_a_limit_can_grow_and_shrink_in_place(groups):
    groups.create_pod("p", Amounts())
    for size in (64, 256, 32):
        groups.set("p", "", Amounts(size * MI, 100 * size))
    groups.remove("p")


def test_a_container_that_takes_more_than_its_limit_is_oom_killed_and_says_so():
    async def main():
        async with process_world() as world:
            if "control groups" not in " ".join(world.agent.isolation().applied):
                pytest.skip("control groups are not to be had")
            await world.pod("hog", HOG, container=limited("40Mi"))
            ended = (await world.phase("hog", "Failed"))["status"]["containerStatuses"][0]
            assert ended["state"]["terminated"]["reason"] == "OOMKilled"
            assert ended["state"]["terminated"]["exitCode"] == 137
            message = await world.event("hog", "OOMKilling")
            assert "limit 40Mi" in message
            await world.pod("fine", HOG.replace("30", "0"), container=limited("200Mi"))
            await world.phase("fine", "Succeeded")

    asyncio.run(main())


def test_without_control_groups_memory_is_measured_and_the_excess_killed(monkeypatch):
    monkeypatch.setattr(Cgroups, "open", lambda tag, **_: Cgroups(shortfall="none here"))

    async def main():
        async with process_world() as world:
            missing = " ".join(world.agent.isolation().missing)
            assert "memory limits are watched" in missing
            assert "none here" in missing
            await world.pod("hog", HOG, container=limited("40Mi"))
            await world.pod("fine", "sleep 1000", container=limited("40Mi"))
            ended = (await world.phase("hog", "Failed"))["status"]["containerStatuses"][0]
            assert ended["state"]["terminated"]["reason"] == "OOMKilled"
            assert ended["state"]["terminated"]["exitCode"] == 137
            assert "limit 40Mi" in await world.event("hog", "OOMKilling")
            await world.phase("fine", "Running")

    asyncio.run(main())


def test_a_kill_that_is_not_the_kernel_s_is_no_oom():
    async def main():
        async with process_world() as world:
            await world.pod("shot", "kill -9 $$$$", container=limited("40Mi"))
            ended = (await world.phase("shot", "Failed"))["status"]["containerStatuses"][0]
            assert ended["state"]["terminated"]["reason"] == "Error"

    asyncio.run(main())


def test_a_fork_bomb_stays_in_its_pod(groups):
    bomb = "i=0; while [ $i -lt 6000 ]; do sleep 5.7731 & i=$((i+1)); done; wait"

    async def main():
        async with process_world() as world:
            if "number of processes" not in " ".join(world.agent.isolation().applied):
                pytest.skip("no pids controller")
            await world.pod("bomb", bomb)
            await world.pod("other", "true")
            await world.phase("other", "Succeeded", limit_s=60)
            assert len(processes_with("5.7731")) <= 4096

    asyncio.run(main())


def test_a_container_sees_its_own_limits_and_cannot_change_them(groups):
    script = (
        "cat /sys/fs/cgroup/memory/memory.limit_in_bytes /sys/fs/cgroup/memory.max 2>/dev/null;"
        "for f in /sys/fs/cgroup/memory/memory.limit_in_bytes /sys/fs/cgroup/memory.max; do"
        " (echo 999999999 > $f) 2>/dev/null && echo written; done; true"
    )

    async def main():
        async with process_world() as world:
            if world.agent.isolation().level != "root":
                pytest.skip("needs root")
            await world.pod("look", script, container=limited("64Mi"))
            assert (await world.output("look")).split() == [str(64 * MI)]

    asyncio.run(main())


def groups_of(root):
    """Control groups of the agent whose files are below ``root``."""
    return groups_tagged(hashlib.sha256(str(Path(root).resolve()).encode()).hexdigest()[:12])


def groups_tagged(tag):
    """Of all hierarchies; groups that go meanwhile are none."""
    walk = os.walk("/sys/fs/cgroup")
    return [f"{at}/{name}" for at, names, _ in walk for name in names if name == f"kubarium-{tag}"]


def test_no_group_is_left_after_the_agent_has_ended(groups):
    async def main():
        with tempfile.TemporaryDirectory(prefix="kubarium-test-") as root:
            settings = NodeConfig((NodeSpec("n"),), PROCESS, root=root)
            async with world_on(RealClock(), settings) as world:
                await world.pod("p", "sleep 1000", container=limited("64Mi"))
                await world.phase("p", "Running")
                assert groups_of(root)
            assert groups_of(root) == []

    asyncio.run(main())


AGENT = """
import asyncio, sys
from pathlib import Path
from kubarium.node.runtimes.process.cgroups import Amounts, Cgroups
from kubarium.node.runtimes.process.engine import ProcessEngine, ProcessSpec
from tests.node.conftest import RealClock

async def main():
    groups = Cgroups.open(sys.argv[1])
    engine = ProcessEngine(RealClock(), lambda ident, status: None)
    engine.groups = groups.folders
    await engine.start()
    groups.create_pod("p", Amounts())
    groups.create_container("p", "c_0", Amounts(64 << 20))
    await engine.create_sandbox("p", "p", [])
    spec = ProcessSpec(["sleep", "7654"], {"PATH": "/bin:/usr/bin"}, "/", sys.argv[2], None, None,
                       joins=groups.joins("p", "c_0"))
    await engine.start_container("c", "p", spec)
    print("running", flush=True)
    await asyncio.Event().wait()

asyncio.run(main())
"""


def test_a_killed_agent_leaves_neither_processes_nor_groups(groups, tmp_path):
    async def main():
        tag = f"killed-{os.getpid()}"
        agent = await asyncio.create_subprocess_exec(
            sys.executable, "-c", AGENT, tag, str(tmp_path / "log"), stdout=-1
        )
        assert await agent.stdout.readline() == b"running\n"
        assert groups_tagged(tag)
        agent.send_signal(signal.SIGKILL)
        await agent.wait()
        assert await none_left("sleep 7654")
        for _ in range(500):
            if not groups_tagged(tag):
                return
            await asyncio.sleep(0.01)
        raise AssertionError("control groups are left")

    asyncio.run(main())
