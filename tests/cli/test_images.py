"""`kubarium image`: load, ls, rm, with what goes wrong said in a line."""

from __future__ import annotations

import json

import pytest
from typer.testing import CliRunner

from kubarium.cli.main import app
from tests.node.oci.images import Built, entry, layer

IMAGE = Built([layer(entry("text", b"hello"))], {"Cmd": ["/text"]})


@pytest.fixture
def command(tmp_path, monkeypatch):
    monkeypatch.setenv("KUBARIUM_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("COLUMNS", "200")

    def run(*arguments, code=0):
        done = CliRunner().invoke(app, ["image", *map(str, arguments)])
        assert done.exit_code == code, done.output
        return done.output

    return run


def test_images_are_loaded_listed_and_removed(command, tmp_path):
    assert "kubarium image load" in command("ls")
    IMAGE.archive(tmp_path / "saved.tar", names=["team/app:v1", "team/app:v2"])
    IMAGE.layout(tmp_path / "layout")
    assert command("load", tmp_path / "saved.tar").splitlines() == [
        "loaded docker.io/team/app:v1",
        "loaded docker.io/team/app:v2",
    ]
    command("load", tmp_path / "layout", "--tag", "quay.io/me/app:1")
    rows = json.loads(command("ls", "-o", "json"))
    names = ["docker.io/team/app:v1", "docker.io/team/app:v2", "quay.io/me/app:1"]
    assert [row["name"] for row in rows] == names
    assert {row["origin"] for row in rows} == {"loaded"}
    text = command("ls")
    assert all(name in text for name in names)
    assert "removed docker.io/team/app:v1" in command("rm", "team/app:v1")
    gone = command("rm", rows[0]["imageID"])
    assert "removed docker.io/team/app:v2" in gone
    assert "no images" in command("ls")


def test_a_broken_store_is_one_line(command, tmp_path, monkeypatch):
    IMAGE.archive(tmp_path / "saved.tar", names=["team/app:v1"])
    command("load", tmp_path / "saved.tar")
    [lock] = tmp_path.rglob("images/lock")
    lock.unlink()
    lock.mkdir()

    class Puller:
        async def pull(self, reference, auths):
            with store.locked():
                raise AssertionError

    def find(found):
        nonlocal store
        store = found
        return Puller()

    store = None
    monkeypatch.setattr("kubarium.cluster.images.Skopeo.find", find)
    for arguments in (("rm", "team/app:v1"), ("pull", "team/app:v1")):
        output = command(*arguments, code=2).replace("\n", "")
        assert "team/app:v1: the image store: [Errno 21] Is a directory" in output


def test_bad_input_is_one_line(command, tmp_path):
    IMAGE.layout(tmp_path / "layout")
    (tmp_path / "text").write_text("text")
    for arguments, words in (
        (("load", tmp_path / "none"), "no such file or directory"),
        (("load", tmp_path / "text"), "no tar archive: give an OCI layout, or what docker save"),
        (("load", tmp_path / "layout"), "has no name: give it one"),
        (("load", tmp_path / "layout", "--tag", "UPPER"), "'UPPER' is no image name"),
        (("rm", "ghost"), "no image 'ghost' here: see kubarium image ls"),
        (("pull", "oci:/srv/app"), "kubarium image load"),
    ):
        output = command(*arguments, code=2)
        assert len(output.splitlines()) == 1
        output = " ".join(output.split())
        assert words in output
        assert "Traceback" not in output


def test_pull_without_skopeo_says_what_to_install(command, monkeypatch):
    monkeypatch.setenv("PATH", "/nowhere")
    assert "skopeo" in command("pull", "busybox", code=2)
