"""config.json for OCI runtimes, as a value; handlers, and how they are named and refused."""

from __future__ import annotations

import dataclasses

import pytest

from kubarium.node.oci.tree import LayeredTree
from kubarium.node.runtimes.oci.config import runtime_config, seccomp_profile, signal_number
from kubarium.node.runtimes.oci.handlers import Handlers, Program, UnknownHandler
from kubarium.node.runtimes.process.engine import ProcessSpec, User
from kubarium.node.runtimes.process.image_root import copy_layer
from kubarium.node.runtimes.process.rootfs import Bind, RootFs
from tests.node.oci.images import entry, folder, link
from tests.node.oci.test_unpack import unpack

ROOT = RootFs(
    "/place",
    [Bind("/pods/v", "/data", True), Bind("/pods/hosts", "/etc/hosts", False, False)],
    readonly=True,
    cgroups=[("memory", "/sys/fs/cgroup/memory/ours")],
    layers=["/layer"],
)
USER = User(1000, 1001, [7], ["CHOWN", "SYS_TIME"])
SPEC = ProcessSpec(["app", "-v"], {"A": "1"}, "/work", "/log", USER, ROOT)


def config(**changes):
    return runtime_config(dataclasses.replace(SPEC, **changes), "x86_64", {"CHOWN"})


def test_a_container_as_config_json():
    found = config()
    process = found["process"]
    assert (process["args"], process["env"], process["cwd"]) == (["app", "-v"], ["A=1"], "/work")
    user = {"uid": 1000, "gid": 1001, "umask": 18, "additionalGids": [7]}
    assert process["user"] == user
    assert process["capabilities"]["bounding"] == ["CAP_CHOWN"]  # what there is to give
    assert process["noNewPrivileges"] is False
    assert found["root"] == {"path": "/place/merged", "readonly": True}
    mounts = {mount["destination"]: mount for mount in found["mounts"]}
    assert list(mounts)[:4] == ["/proc", "/sys", "/dev", "/dev/mqueue"]
    assert mounts["/data"]["options"] == ["rbind", "rprivate", "ro"]
    assert mounts["/etc/hosts"]["options"] == ["rbind", "rprivate", "rw"]
    assert mounts["/sys"]["options"][-1] == "ro"
    assert mounts["/sys/fs/cgroup/memory"]["source"] == "/sys/fs/cgroup/memory/ours"
    kinds = [namespace["type"] for namespace in found["linux"]["namespaces"]]
    assert kinds == ["pid", "mount"]  # the pod's others are joined before
    assert "/proc/kcore" in found["linux"]["maskedPaths"]
    assert "seccomp" not in found["linux"]
    assert "cgroupsPath" not in found["linux"]


def test_a_debugger_shares_its_targets_processes():
    kinds = [namespace["type"] for namespace in config(beside="main")["linux"]["namespaces"]]
    assert kinds == ["mount"]


def test_privileged_containers_are_not_hidden_anything():
    found = config(root=dataclasses.replace(ROOT, privileged=True), seccomp="00")
    assert set(found["linux"]) == {"namespaces"}
    sys = next(m for m in found["mounts"] if m["destination"] == "/sys")
    assert sys["options"][-1] == "rw"


def test_the_filter_follows_capabilities():
    def denied(*capabilities):
        rules = seccomp_profile(capabilities, "x86_64")["syscalls"]
        return {name for rule in rules for name in rule["names"]}

    assert {"mount", "clone3", "clone", "bpf", "keyctl"} <= denied()
    assert not {"mount", "clone3", "clone"} & denied("SYS_ADMIN")
    assert "keyctl" in denied("SYS_ADMIN")
    clones = [r for r in seccomp_profile((), "x86_64")["syscalls"] if r["names"] == ["clone"]]
    assert {r["args"][0]["value"] for r in clones} >= {0x10000000, 0x20000, 0x40000000}
    assert seccomp_profile((), "aarch64")["architectures"][0] == "SCMP_ARCH_AARCH64"


@pytest.mark.parametrize(
    ("name", "number"),
    [("SIGTERM", 15), ("quit", 3), ("9", 9), ("SIGRTMIN+3", 37), ("SIGNOPE", 15), ("SIGHUP+x", 15)],
)
def test_stop_signals(name, number):
    assert signal_number(name) == number


@pytest.mark.parametrize("name", ["0", "999", "9" * 5000, "²", "HUP+²", "RTMIN+99", "_IGN", "_DFL"])
def test_stop_signals_that_no_machine_has_are_sigterm(name):
    assert signal_number(name) == 15


def test_handlers():
    crun = Program("crun", "/usr/bin/crun", "1.2")
    found = Handlers({"crun": crun}, refusals={"runc": "not installed"})
    for name in ("", "process", "namespaces", "crun"):
        found.check(name)
    assert found.program("") == found.program("crun") == crun
    assert found.program("namespaces") is None
    with pytest.raises(UnknownHandler, match=r'no runtime for "runc" is configured \(not inst'):
        found.check("runc")
    with pytest.raises(UnknownHandler, match="the handlers are process, namespaces, crun"):
        found.check("kata")
    assert found.lines() == (
        ["container images are run by crun 1.2; RuntimeClass handlers: process, namespaces, crun"],
        ["RuntimeClass handler runc: not installed"],
    )
    found.refuse("crun", "fails here")
    assert "our own namespaces" in found.lines()[0][0]
    none = Handlers(namespaces=False, refusals={"namespaces": "why"})
    assert none.lines() == ([], ["container images cannot be run: why"])


def test_layers_copied_over_each_other_are_what_an_overlay_shows(tmp_path):
    lower = unpack(
        tmp_path / "lower",
        entry("etc/a", b"a"),
        entry("etc/b", b"b", mode=0o600),
        entry("srv/old", b"old"),
        folder("var"),
        entry("var/x", b"x"),
        link("was", "etc"),
    )
    upper = unpack(
        tmp_path / "upper",
        entry("etc/.wh.a"),
        folder("srv"),
        entry("srv/.wh..wh..opq"),
        entry("srv/new", b"new"),
        entry("var", b"a file now"),
        folder("was"),
        entry("was/y", b"y"),
    )
    target = tmp_path / "target"
    target.mkdir()
    for layer in (lower, upper):
        copy_layer(str(layer), str(target))
    tree = LayeredTree([str(upper), str(lower)])
    for path in ("etc/a", "etc/b", "srv/old", "srv/new", "var", "var/x", "was/y"):
        expected = tree.read(path)
        place = target / path
        assert (place.read_bytes() if place.is_file() else b"") == expected, path
    assert (target / "etc/b").stat().st_mode & 0o777 == 0o600
    assert not (target / "was").is_symlink()


def test_trees_do_not_follow_links_out(tmp_path):
    root = unpack(
        tmp_path / "l",
        folder("etc"),
        link("etc/passwd", "../../../../../../etc/passwd"),
        link("loop", "loop"),
        link("abs", "/etc/real"),
        entry("etc/real", b"inside"),
    )
    tree = LayeredTree([str(root)])
    assert tree.read("etc/passwd") == b""
    assert tree.read("loop") == b""
    assert tree.read("abs") == b"inside"
    assert tree.find("etc/real/below") == ""
    assert tree.find("/") == str(root)
