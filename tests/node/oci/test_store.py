"""The store: what is loaded is verified, named, unpacked once, and goes when nobody needs it."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import subprocess
import sys

import pytest

from kubarium.cluster.clock import RealClock
from kubarium.node.oci import load as loading
from kubarium.node.oci.collect import Disk, may_go, status_images
from kubarium.node.oci.config import Platform, this_platform
from kubarium.node.oci.errors import ImageProblem, PullProblem
from kubarium.node.oci.load import find_at_path, load
from kubarium.node.oci.provide import Images
from kubarium.node.oci.reference import parse_reference
from kubarium.node.oci.store import LOADED, PULLED, ImageStore, Record
from kubarium.node.oci.tree import LayeredTree
from kubarium.node.oci.unpack import Budget
from tests.node.oci.images import INDEX, Built, as_archive, entry, folder, layer, sha256

BASE = layer(folder("etc"), entry("etc/name", b"base"))
TOP = layer(entry("etc/name", b"top"), entry("bin/app", b"app", mode=0o755))


@pytest.fixture
def store(tmp_path):
    return ImageStore(tmp_path / "images", lambda: 1000.0, Budget(str(tmp_path), spare_bytes=0))


def found(store, path, **more):
    return find_at_path(store, parse_reference(f"oci:{path}"), **more)


def test_an_oci_layout_becomes_layers_that_images_share(store, tmp_path):
    first, second = Built([BASE, TOP]), Built([BASE, layer(entry("other", b"x"))])
    first.layout(tmp_path / "a")
    second.layout(tmp_path / "b")
    a = store.unpacked(found(store, tmp_path / "a"))
    b = store.unpacked(found(store, tmp_path / "b"))
    assert a[1] == b[1]
    assert LayeredTree(a).read("etc/name") == b"top"
    assert LayeredTree(b).read("etc/name") == b"base"
    inode = os.stat(a[0]).st_ino
    assert os.stat(store.unpacked(found(store, tmp_path / "a"))[0]).st_ino == inode


def test_archives_hold_the_same_images(store, tmp_path):
    built = Built([BASE, TOP], {"Cmd": ["app"]})
    digest = built.layout(tmp_path / "layout")
    as_archive(tmp_path / "layout", tmp_path / "oci.tar")
    built.archive(tmp_path / "docker.tar")
    by_path = found(store, tmp_path / "layout")
    oci = find_at_path(store, parse_reference(f"oci-archive:{tmp_path}/oci.tar:v1"))
    docker = find_at_path(store, parse_reference(f"docker-archive:{tmp_path}/docker.tar"))
    assert by_path.manifest == oci.manifest == digest
    assert docker.config == oci.config
    assert store.unpacked(docker) == store.unpacked(oci)
    assert store.config(docker.config).cmd == ("app",)


def test_loading_gives_names(store, tmp_path):
    built = Built([BASE])
    built.layout(tmp_path / "named", tag="example.com/team/app:v2")
    built.layout(tmp_path / "plain", tag="v1")
    built.archive(tmp_path / "saved.tar", names=["app:1", "app:2"])
    assert load(store, str(tmp_path / "named")) == ["example.com/team/app:v2"]
    saved = ["docker.io/library/app:1", "docker.io/library/app:2"]
    assert load(store, str(tmp_path / "saved.tar")) == saved
    assert load(store, str(tmp_path / "plain"), ["mine"]) == ["docker.io/library/mine:latest"]
    with pytest.raises(ImageProblem, match="has no name: give it one"):
        load(store, str(tmp_path / "plain"))
    assert store.find("docker.io/library/app:1").origin == LOADED


def break_blob(path, digest, data=b"broken"):
    (path / "blobs/sha256" / digest.partition(":")[2]).write_bytes(data)


def test_corrupt_short_and_missing_blobs_are_named(store, tmp_path):
    built = Built([BASE, TOP])
    path = tmp_path / "a"
    digest = built.layout(path)
    manifest = json.loads((path / "blobs/sha256" / digest[7:]).read_bytes())
    top = manifest["layers"][1]
    original = (path / "blobs/sha256" / top["digest"][7:]).read_bytes()
    break_blob(path, top["digest"], original[:-1] + bytes([original[-1] ^ 1]))
    with pytest.raises(ImageProblem, match=f"blob {top['digest']} is corrupt: its digest is"):
        found(store, path)
    break_blob(path, top["digest"], original[:-5])
    with pytest.raises(ImageProblem, match=f"bytes instead of {len(original)}"):
        found(store, path)
    break_blob(path, top["digest"], original + bytes(1 << 21))
    with pytest.raises(ImageProblem, match=f"has more bytes instead of {len(original)}"):
        found(store, path)
    (path / "blobs/sha256" / top["digest"][7:]).unlink()
    with pytest.raises(ImageProblem, match=f"layer {top['digest']} is missing"):
        found(store, path)
    break_blob(path, digest)
    with pytest.raises(ImageProblem, match=f"manifest {digest} is no JSON"):
        found(store, path)
    assert store.records() == {}
    store.clean()
    assert os.listdir(store.root / "blobs/sha256") == []


def lying_layout(path):
    """An image whose config tells of another layer."""
    built = Built([BASE, TOP])
    real = built.blobs

    def lying():
        digest, blobs = real()
        manifest = json.loads(blobs.pop(digest))
        config = json.loads(blobs.pop(manifest["config"]["digest"]))
        config["rootfs"]["diff_ids"][1] = sha256(b"something else")
        data = json.dumps(config).encode()
        manifest["config"] = {"digest": sha256(data), "size": len(data)}
        text = json.dumps(manifest).encode()
        return sha256(text), blobs | {sha256(data): data, sha256(text): text}

    built.blobs = lying
    built.layout(path)


def test_a_layer_that_is_not_what_its_config_says_is_refused(store, tmp_path):
    lying_layout(tmp_path / "a")
    record = found(store, tmp_path / "a")
    with pytest.raises(ImageProblem, match="is corrupt: it unpacks to"):
        store.unpacked(record)
    assert [n for n in os.listdir(store.root / "layers") if n.startswith(".")] == []


def test_an_image_that_cannot_be_unpacked_is_not_there(store, tmp_path):
    lying_layout(tmp_path / "a")
    images = Images(None, store, RealClock())
    container = {"image": f"oci:{tmp_path}/a"}
    told = []

    def provide():
        asyncio.run(images.provide(container, "namespaces", {}, lambda *one: told.append(one[1])))

    for _ in range(2):  # the second time, too, it says what is wrong
        with pytest.raises(PullProblem, match="is corrupt: it unpacks to"):
            provide()
    assert told == ["Pulling", "Pulling"]
    assert store.records() == {}
    assert os.listdir(store.root / "blobs/sha256") == os.listdir(store.root / "layers") == []
    shutil.rmtree(tmp_path / "a")
    Built([BASE, TOP]).layout(tmp_path / "a")
    provide()
    assert told[2:] == ["Pulling", "Pulled"]


@pytest.mark.timeout(20)
def test_nobody_waits_for_a_load_to_clean_up(store, tmp_path):
    Built([BASE]).layout(tmp_path / "a")
    record = found(store, tmp_path / "a")
    (store.root / "names.json").write_text("{}")
    with ImageStore(store.root, lambda: 1000.0).locked():
        assert store.clean() == 0
        assert store.has(record.manifest)
    assert store.clean() > 0


def test_a_blob_that_rots_in_the_store_is_found_out(store, tmp_path):
    Built([BASE]).layout(tmp_path / "a")
    record = found(store, tmp_path / "a")
    store.blob(record.config).write_bytes(b"{}")
    with pytest.raises(ImageProblem, match=r"config .* is corrupt: load the image again"):
        store.unpacked(record)


def test_manifest_and_config_must_agree_on_layers(store, tmp_path):
    built = Built([BASE, TOP])
    path = tmp_path / "a"
    digest = built.layout(path)
    manifest = json.loads((path / "blobs/sha256" / digest[7:]).read_bytes())
    manifest["layers"].pop()
    text = json.dumps(manifest).encode()
    built.layout(path, more=[text], index=[{"digest": sha256(text), "size": len(text)}])
    with pytest.raises(ImageProblem, match="the manifest has 1 layers, its config 2"):
        found(store, path)


def platforms(path, *wanted, extra=()):
    """A layout of one index with an image for each architecture."""
    entries, blobs = [], []
    for name in wanted:
        digest, own = Built([layer(entry("arch", name.encode()))], architecture=name).blobs()
        blobs += own.values()
        size = len(own[digest])
        of = {"os": "linux", "architecture": name}
        entries.append({"digest": digest, "size": size, "platform": of})
    text = json.dumps({"schemaVersion": 2, "manifests": [*extra, *entries]}).encode()
    index = [{"mediaType": INDEX, "digest": sha256(text), "size": len(text)}]
    Built([]).layout(path, more=[*blobs, text], index=index)
    return sha256(text)


def test_an_index_gives_this_machines_platform(store, tmp_path):
    here = this_platform().architecture
    unknown = {"os": "unknown", "architecture": "unknown"}
    attestation = {"digest": sha256(b"x"), "size": 1, "platform": unknown}
    digest = platforms(tmp_path / "a", "mips", here, "s390", extra=[attestation])
    record = found(store, tmp_path / "a")
    assert LayeredTree(store.unpacked(record)).read("arch") == here.encode()
    assert record.index == digest
    platforms(tmp_path / "b", "mips", "s390", extra=[attestation])
    with pytest.raises(
        ImageProblem, match=r"no match for platform linux/.*linux/mips, linux/s390\)"
    ):
        found(store, tmp_path / "b")
    Built([BASE], architecture="mips").layout(tmp_path / "c")
    with pytest.raises(
        ImageProblem, match=f"image is for linux/mips, this machine is linux/{here}"
    ):
        found(store, tmp_path / "c")


def test_variants():
    arm = Platform("linux", "arm64", "v8")
    assert arm.runs(Platform("linux", "arm64"))
    assert arm.runs(Platform("linux", "arm64", "v8"))
    assert not Platform("linux", "arm", "v7").runs(Platform("linux", "arm", "v5"))
    assert not Platform("linux", "amd64").runs(Platform("windows", "amd64"))


@pytest.mark.parametrize(
    ("name", "text", "match"),
    [
        ("index.json", "[]", "not a JSON object"),
        ("index.json", "{", "is no JSON"),
        ("index.json", "{}", "lists no manifests"),
        ("index.json", '{"manifests": []}', "holds no image"),
        ("index.json", '{"manifests": [{"digest": "md5:1", "size": 1}]}', "digest 'md5:1' is not"),
        ("index.json", '{"manifests": [{"digest": 1}]}', "digest 1 is not"),
        ("oci-layout", '{"imageLayoutVersion": "9"}', "'9' is not 1.0.0"),
        ("oci-layout", "", "is no JSON"),
        ("index.json", '{"manifests": [{"annotations": "x"}]}', "annotations 'x' is no object"),
        ("index.json", '{"manifests": [{"annotations": {"a": 1}}]}', "digest None is not"),
        ("index.json", "[" * 100_000, "is no JSON"),
    ],
)
def test_broken_layouts_say_what_is_wrong(store, tmp_path, name, text, match):
    Built([BASE]).layout(tmp_path / "a")
    (tmp_path / "a" / name).write_text(text)
    with pytest.raises(ImageProblem, match=match):
        found(store, tmp_path / "a")


def test_a_layouts_entries_without_digests_are_named(store, tmp_path):
    Built([BASE]).layout(tmp_path / "a")
    (tmp_path / "a/index.json").write_text('{"manifests": [{}, {"digest": 1}]}')
    with pytest.raises(ImageProblem, match=r"has no image 'v1' \(there: \?, 1\)"):
        find_at_path(store, parse_reference(f"oci:{tmp_path}/a:v1"))


def test_a_saved_images_names_are_a_list(store, tmp_path):
    (tmp_path / "manifest.json").write_text('[{"Config": "c", "Layers": [], "RepoTags": 5}]')
    with pytest.raises(ImageProblem, match=r"manifest\.json: RepoTags 5 is no list"):
        load(store, str(tmp_path))


def test_paths_that_hold_no_image(store, tmp_path):
    (tmp_path / "empty").mkdir()
    (tmp_path / "file").write_text("text")
    for name, match in (
        ("nothing", "no such file"),
        ("empty", "neither index.json"),
        ("file", "no directory and no tar archive"),
    ):
        with pytest.raises(ImageProblem, match=match):
            found(store, tmp_path / name)
    Built([BASE]).layout(tmp_path / "a", tag="v1")
    with pytest.raises(ImageProblem, match=r"has no image 'v2' \(there: v1\)"):
        find_at_path(store, parse_reference(f"oci:{tmp_path}/a:v2"))
    with pytest.raises(ImageProblem, match="is no oci-archive: write oci:"):
        find_at_path(store, parse_reference(f"oci-archive:{tmp_path}/a"))


def test_huge_layers_stop_at_the_limit(tmp_path):
    built = Built([layer(entry("zeros", bytes(8 << 20)))])
    built.layout(tmp_path / "a")
    limits = Budget(str(tmp_path), bytes=1 << 20, spare_bytes=0)
    small = ImageStore(tmp_path / "images", lambda: 0.0, limits)
    record = found(small, tmp_path / "a")
    with pytest.raises(ImageProblem, match="exceeds what an image may unpack to"):
        small.unpacked(record)
    assert os.listdir(small.root / "layers") == []


@pytest.mark.parametrize("kind", ["zstd", "xz", "bz2", "plain"])
def test_other_compressions(store, tmp_path, kind):
    if kind == "zstd":
        module = pytest.importorskip(
            "compression.zstd" if sys.version_info >= (3, 14) else "backports.zstd",
            reason="needs zstd: the extra images",
        )
        compress = module.compress
    elif kind == "plain":
        compress = bytes
    else:
        compress = __import__({"xz": "lzma", "bz2": "bz2"}[kind]).compress
    Built([BASE, TOP], compress=compress).layout(tmp_path / "a")
    assert LayeredTree(store.unpacked(found(store, tmp_path / "a"))).read("bin/app") == b"app"


def test_zstd_by_the_program(store, tmp_path, monkeypatch):
    program = shutil.which("zstd")
    if program is None:
        pytest.skip("needs the program zstd")

    def compress(data):
        return subprocess.run([program, "-qc"], input=data, capture_output=True, check=True).stdout

    monkeypatch.setattr("kubarium.node.oci.compression._ZSTD_MODULES", ())
    Built([BASE], compress=compress).layout(tmp_path / "a")
    assert LayeredTree(store.unpacked(found(store, tmp_path / "a"))).read("etc/name") == b"base"


def test_zstd_without_either_says_what_to_install(store, tmp_path, monkeypatch):
    monkeypatch.setattr("kubarium.node.oci.compression._ZSTD_MODULES", ())
    monkeypatch.setenv("PATH", "/nowhere")
    Built([BASE], compress=lambda data: b"\x28\xb5\x2f\xfd" + data).layout(tmp_path / "a")
    with pytest.raises(ImageProblem, match=r"pip install 'kubarium\[images\]'"):
        store.unpacked(found(store, tmp_path / "a"))


def test_what_nobody_names_goes_unless_a_container_runs_from_it(store, tmp_path):
    Built([BASE, TOP]).archive(tmp_path / "a.tar", names=["a:1"])
    Built([BASE, layer(entry("b", b"b"))]).archive(tmp_path / "b.tar", names=["b:1"])
    records = {name: None for path in "ab" for name in load(store, str(tmp_path / f"{path}.tar"))}
    layers = {name: store.unpacked(store.find(name)) for name in records}
    first, second = records
    store.lease("container", store.find(first))
    assert store.remove([first]) == 0
    assert all(map(os.path.isdir, layers[first]))
    store.release("container")
    assert store.clean() > 0
    assert not os.path.exists(layers[first][0])
    assert all(map(os.path.isdir, layers[second]))  # the base is shared
    store.keep_leases(set())
    store.remove([second])
    assert os.listdir(store.root / "layers") == os.listdir(store.root / "blobs/sha256") == []


def test_a_store_is_nobody_elses_to_read(store, tmp_path):
    Built([BASE]).archive(tmp_path / "a.tar")
    load(store, str(tmp_path / "a.tar"))
    assert os.stat(store.root).st_mode & 0o077 == 0


def test_collection_starts_high_ends_low_and_takes_the_longest_unused():
    assert Disk(1000, 160).to_free(85, 80) == 0
    assert Disk(1000, 150).to_free(85, 80) == 50
    assert Disk(0, 0).to_free(85, 80) == 0

    def record(number, origin=PULLED, used_at=0.0):
        return Record(f"m{number}", "c", 10, origin, used_at=used_at)

    records = {
        "new": record(1, used_at=950.0),
        "old": record(2, used_at=10.0),
        "older": record(3, used_at=5.0),
        "by-hand": record(4, LOADED),
        "running": record(5),
    }
    assert may_go(records, {"m5"}, 1000.0, 120.0) == ["older", "old"]


def test_nodes_list_the_largest_images_by_all_names():
    small = Record("sha256:1", "c", 10, PULLED, index="sha256:9")
    large = Record("sha256:2", "c", 99, LOADED)
    records = {
        "docker.io/library/busybox:1": small,
        "docker.io/library/busybox:2": small,
        "oci:/srv/app": large,
    }
    assert status_images(records) == [
        {"names": ["oci:/srv/app"], "sizeBytes": 99},
        {
            "names": [
                "docker.io/library/busybox@sha256:9",
                "docker.io/library/busybox:1",
                "busybox:1",
                "docker.io/library/busybox:2",
                "busybox:2",
            ],
            "sizeBytes": 10,
        },
    ]
    many = {f"a/b:{i}": Record(f"sha256:{i}", "c", i, PULLED) for i in range(60)}
    assert len(status_images(many)) == 50


def test_a_changed_path_has_another_stamp(tmp_path):
    Built([BASE]).layout(tmp_path / "a")
    before = loading.stamp_of(str(tmp_path / "a"))
    Built([TOP]).layout(tmp_path / "a")
    assert loading.stamp_of(str(tmp_path / "a")) != before
    assert loading.stamp_of(str(tmp_path / "b")) == ""
