"""Layers on disk: whiteouts, links, owners, and what must not get out or in."""

from __future__ import annotations

import contextlib
import io
import os
import stat
import tarfile

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kubarium.node.oci.errors import ImageProblem
from kubarium.node.oci.tree import LayeredTree, is_opaque, is_whiteout
from kubarium.node.oci.unpack import Budget, unpack_layer
from tests.node.oci.images import entry, folder, hard_link, layer, link


def unpack(place, *entries, below=(), budget=None):
    place.mkdir(exist_ok=True)
    limits = budget or Budget(str(place), spare_bytes=0)
    unpack_layer(io.BytesIO(layer(*entries)), str(place), limits, below)
    return place


def test_files_with_modes_owners_and_times(tmp_path):
    root = unpack(
        tmp_path / "l",
        folder("usr", 0o750, mtime=1000),
        entry("usr/sudo", b"x", mode=0o4755, mtime=77),
        entry("./usr/lib/deep/file", b"deep", mode=0o600),
        entry("/abs", b"leading slash"),
    )
    assert stat.S_IMODE((root / "usr/sudo").stat().st_mode) == 0o4755
    assert (root / "usr/sudo").stat().st_mtime == 77
    assert (root / "usr").stat().st_mtime == 1000
    assert (root / "usr/lib/deep/file").read_bytes() == b"deep"
    assert (root / "abs").read_bytes() == b"leading slash"


def test_owners(tmp_path, needs_root):
    root = unpack(tmp_path / "l", entry("a", uid=12, gid=34, mode=0o6711), link("b", "a"))
    found = (root / "a").stat()
    assert (found.st_uid, found.st_gid, stat.S_IMODE(found.st_mode)) == (12, 34, 0o6711)


@pytest.mark.parametrize("name", ["../evil", "a/../../evil", "/../evil", "a/b/../c"])
def test_names_that_lead_upwards_are_refused(tmp_path, name):
    with pytest.raises(ImageProblem, match="leads out of the image"):
        unpack(tmp_path / "l", entry(name, b"x"))
    assert not (tmp_path / "evil").exists()


@pytest.mark.parametrize("target", ["/tmp", "../../..", "/", "../outside"])
def test_links_are_followed_inside_only(tmp_path, target):
    outside = tmp_path / "outside"
    outside.mkdir()
    root = unpack(tmp_path / "l", link("way", target), entry("way/file", b"x"))
    assert not (outside / "file").exists()
    assert not os.path.exists("/tmp/file")
    inside = [str(path.relative_to(root)) for path in root.rglob("file")]
    assert len(inside) == 1


def test_a_file_over_a_link_replaces_the_link(tmp_path):
    victim = tmp_path / "victim"
    victim.write_text("mine")
    root = unpack(tmp_path / "l", link("a", str(victim)), entry("a", b"theirs"))
    assert victim.read_text() == "mine"
    assert not (root / "a").is_symlink()


def test_links_in_a_circle_are_named(tmp_path):
    with pytest.raises(ImageProblem, match="too many links"):
        unpack(tmp_path / "l", link("a", "b"), link("b", "a"), entry("a/x", b""))


def test_hard_links_stay_inside_and_reach_lower_layers(tmp_path):
    lower = unpack(tmp_path / "lower", entry("bin/tool", b"tool", mode=0o4755))
    root = unpack(
        tmp_path / "l",
        entry("a", b"same"),
        hard_link("b", "a"),
        hard_link("bin/other", "bin/tool"),
        below=[str(lower)],
    )
    assert (root / "a").stat().st_ino == (root / "b").stat().st_ino
    assert (root / "bin/other").read_bytes() == b"tool"
    assert stat.S_IMODE((root / "bin/other").stat().st_mode) == 0o4755
    with pytest.raises(ImageProblem, match="hard link to etc/nothing, which is not there"):
        unpack(tmp_path / "m", hard_link("x", "/etc/nothing"))
    with pytest.raises(ImageProblem, match="leads out"):
        unpack(tmp_path / "n", hard_link("x", "../../etc/passwd"))


def test_whiteouts_hide_what_is_below(tmp_path):
    lower = unpack(
        tmp_path / "lower", entry("etc/a", b"a"), entry("etc/b", b"b"), entry("srv/old", b"old")
    )
    upper = unpack(
        tmp_path / "upper",
        entry("etc/.wh.a"),
        folder("srv"),
        entry("srv/.wh..wh..opq"),
        entry("srv/new", b"new"),
        entry(".wh..wh.plnk/1.2", b"aufs"),
    )
    assert is_whiteout(os.lstat(upper / "etc/a"))
    assert is_opaque(str(upper / "srv"))
    tree = LayeredTree([str(upper), str(lower)])
    assert tree.read("etc/a") == b""
    assert tree.read("/etc/b") == b"b"
    assert tree.find("srv/old") == ""
    assert tree.read("srv/new") == b"new"


def test_a_whiteout_beside_the_thing_itself_is_about_lower_layers(tmp_path):
    lower = unpack(tmp_path / "lower", entry("d/old", b"old"))
    for order in (0, 1):
        entries = [entry(".wh.d"), entry("d/new", b"new")]
        upper = unpack(tmp_path / f"upper{order}", *(reversed(entries) if order else entries))
        tree = LayeredTree([str(upper), str(lower)])
        assert tree.read("d/new") == b"new"
        assert tree.find("d/old") == ""


@pytest.mark.parametrize("name", [".wh.", ".wh...", ".wh.."])
def test_whiteouts_of_nothing(tmp_path, name):
    with pytest.raises(ImageProblem, match="hides nothing"):
        unpack(tmp_path / "l", entry(name))


def test_overlays_own_attributes_are_not_taken_from_layers(tmp_path):
    pax = {
        "SCHILY.xattr.trusted.overlay.redirect": "/etc",
        "SCHILY.xattr.user.overlay.opaque": "y",
        "SCHILY.xattr.user.note": "kept",
    }
    root = unpack(tmp_path / "l", folder("d", pax=pax))
    names = os.listxattr(root / "d")
    assert "user.note" in names
    assert not [name for name in names if "overlay" in name]


def test_what_could_fill_the_disk_is_refused_before_it_is_written(tmp_path):
    budget = Budget(str(tmp_path), bytes=1000, spare_bytes=0)
    with pytest.raises(ImageProblem, match=r"big \(4096 bytes\) exceeds"):
        unpack(tmp_path / "l", entry("small", b"x"), entry("big", bytes(4096)), budget=budget)
    assert not (tmp_path / "l/big").exists()
    with pytest.raises(ImageProblem, match="are to stay free"):
        unpack(tmp_path / "m", entry("a", b"x"), budget=Budget(str(tmp_path), spare_bytes=1 << 62))
    with pytest.raises(ImageProblem, match="too many files"):
        unpack(tmp_path / "n", entry("a"), entry("b"), budget=Budget(str(tmp_path), entries=1))


def test_device_files_that_would_be_whiteouts_are_refused(tmp_path):
    with pytest.raises(ImageProblem, match="device 0:0"):
        unpack(tmp_path / "l", entry("null", kind=tarfile.CHRTYPE, devmajor=0, devminor=0))


@pytest.mark.parametrize("data", [b"no tar at all" * 100, layer(entry("a", bytes(5000)))[:2000]])
def test_broken_archives_are_named(tmp_path, data):
    root = tmp_path / "l"
    root.mkdir()
    with pytest.raises(ImageProblem, match="layer sha256:1"):
        unpack_layer(
            io.BytesIO(data), str(root), Budget(str(root), spare_bytes=0), (), "layer sha256:1"
        )


_NAMES = st.lists(
    st.sampled_from(["a", "b", "..", ".", "", "/", "c/d", ".wh.a", ".wh..wh..opq"]),
    min_size=1,
    max_size=5,
).map("/".join)
_MEMBERS = st.one_of(
    _NAMES.map(lambda name: entry(name, b"data")),
    _NAMES.map(folder),
    st.tuples(_NAMES, _NAMES).map(lambda pair: link(*pair)),
    st.tuples(_NAMES, _NAMES).map(lambda pair: hard_link(*pair)),
)


@given(st.lists(_MEMBERS, max_size=8))
def test_no_layer_writes_outside_its_folder(tmp_path_factory, members):
    base = tmp_path_factory.mktemp("hostile")
    (base / "watched").write_text("untouched")
    root = base / "deep" / "root"
    root.parent.mkdir()
    with contextlib.suppress(ImageProblem):
        unpack(root, *members)
    assert sorted(os.listdir(base)) == ["deep", "watched"]
    assert os.listdir(base / "deep") == ["root"]
    assert (base / "watched").read_text() == "untouched"
    assert (base / "watched").stat().st_nlink == 1
