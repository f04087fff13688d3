"""Pulling through skopeo, from a registry on loopback: policies, digests, logins, problems."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import json
import shutil
import subprocess

import pytest

from kubarium.api.kinds import SECRETS
from kubarium.node.oci.errors import ImageProblem, PullProblem
from kubarium.node.oci.load import find_at_path
from kubarium.node.oci.provide import Images
from kubarium.node.oci.pull import Skopeo, pull_secrets, remove_leftovers
from kubarium.node.oci.reference import parse_reference
from kubarium.node.oci.store import PULLED, ImageStore
from kubarium.node.oci.tree import LayeredTree
from kubarium.node.oci.unpack import Budget
from tests.node.conftest import process_world
from tests.node.oci.images import Built, busybox, entry, layer
from tests.node.oci.registry import serving

needs_skopeo = pytest.mark.skipif(
    shutil.which("skopeo") is None, reason="needs skopeo (Debian: apt install skopeo)"
)


@pytest.fixture
def store(tmp_path):
    return ImageStore(tmp_path / "images", lambda: 1000.0, Budget(str(tmp_path), spare_bytes=0))


@needs_skopeo
def test_an_image_comes_from_a_registry_with_its_digest(store):
    built = Built([layer(entry("text", b"pulled"))])
    with serving(built) as registry:
        reference = parse_reference(f"{registry.address}/team/app:v1")
        record = asyncio.run(Skopeo.find(store).pull(reference, {}))
        assert record == store.find(reference.canonical)
        assert (record.origin, record.index) == (PULLED, built.blobs()[0])
        assert LayeredTree(store.unpacked(record)).read("text") == b"pulled"
        by_digest = parse_reference(f"{registry.address}/team/app:ignored@{record.index}")
        assert asyncio.run(Skopeo.find(store).pull(by_digest, {})).config == record.config
        assert [path.name for path in store.root.glob(".pull-*")] == []
        missing = parse_reference(f"{registry.address}/team/app:v2")
        with pytest.raises(ImageProblem, match="unknown"):
            asyncio.run(Skopeo.find(store).pull(missing, {}))


@needs_skopeo
def test_layers_that_are_here_already_are_not_fetched_again(store):
    base, older = layer(entry("base", b"b" * 5000)), layer(entry("text", b"one"))
    first, second = Built([base, older]), Built([base, layer(entry("text", b"two"))])
    with serving(first) as registry:
        reference = parse_reference(f"{registry.address}/team/app:v1")
        record = asyncio.run(Skopeo.find(store).pull(reference, {}))
        registry.image = second
        registry.asked.clear()
        again = asyncio.run(Skopeo.find(store).pull(reference, {}))
        fetched = {name for kind, name in registry.asked if kind == "blobs"}
        layers = [entry.digest for entry in store.manifest(again.manifest).layers]
        assert layers[0] == store.manifest(record.manifest).layers[0].digest
        assert layers[1] in fetched
        assert layers[0] not in fetched, "the base is shared"
        tree = LayeredTree(store.unpacked(again))
        assert (tree.read("text"), tree.read("base")) == (b"two", b"b" * 5000)
        assert [path.name for path in store.root.glob(".pull-*")] == []


def test_what_is_lent_stays_when_its_image_is_removed(store, tmp_path):
    store.lend(tmp_path / "early")
    assert list((tmp_path / "early").iterdir()) == [], "nothing is there yet"
    Built([layer(entry("text", b"kept"))]).layout(tmp_path / "a")
    reference = parse_reference(f"oci:{tmp_path}/a")
    record = find_at_path(store, reference)
    store.lend(tmp_path / "lent")
    store.lend(tmp_path / "lent")  # once more is no problem
    store.remove([reference.canonical])
    assert not store.has(record.config)
    lent = {path.name: path.read_bytes() for path in (tmp_path / "lent").iterdir()}
    assert len(lent) == 3, "a layer, the config and the manifest"
    assert all(hashlib.sha256(data).hexdigest() == name for name, data in lent.items())


@needs_skopeo
def test_pull_policies_ask_as_often_as_they_say(tmp_path, needs_root):
    async def main(registry):
        async with process_world(pulls=True) as world:
            image = f"docker://{registry.address}/team/app:v1"
            script = "cat /text"
            await world.pod("first", script, container={"image": image})
            assert await world.output("first") == "one\n"
            text = await world.event("first", "Pulled")
            assert text.startswith(f'Successfully pulled image "{image}" in ')
            registry.image = busybox(None, layer(entry("text", b"two")))
            registry.asked.clear()
            await world.pod("again", script, container={"image": image})
            assert await world.output("again") == "one\n"
            assert registry.asked == []
            always = {"image": image, "imagePullPolicy": "Always"}
            await world.pod("always", script, container=always)
            assert await world.output("always") == "two\n"
            status = (await world.get("always"))["status"]["containerStatuses"][0]
            digest = registry.image.blobs()[0]
            assert status["imageID"] == f"{registry.address}/team/app@{digest}"
            registry.asked.clear()
            await world.pod("same", script, container=always)
            assert await world.output("same") == "two\n"
            assert {kind for kind, _ in registry.asked} == {"manifests"}
            gone = image.replace("v1", "v9")
            await world.pod("gone", container={"image": gone})
            assert "unknown" in await world.waiting("gone", "ErrImagePull")
            assert gone in await world.event("gone", "Failed")

    with serving(busybox(None, layer(entry("text", b"one")))) as registry:
        asyncio.run(main(registry))


@needs_skopeo
def test_logins_come_from_the_pods_secrets(needs_root):
    async def main(registry):
        async with process_world(pulls=True) as world:
            image = f"docker://{registry.address}/team/app:v1"
            await world.pod("none", container={"image": image})
            assert "authentication required" in await world.waiting("none", "ErrImagePull")
            login = {"auth": base64.b64encode(b"me:secret").decode()}
            text = json.dumps({"auths": {registry.address: login}})
            secret = {
                "apiVersion": "v1",
                "kind": "Secret",
                "metadata": {"name": "login"},
                "type": "kubernetes.io/dockerconfigjson",
                "data": {".dockerconfigjson": base64.b64encode(text.encode()).decode()},
            }
            await world.create(SECRETS, secret)
            await world.pod(
                "with",
                "cat /text",
                container={"image": image},
                imagePullSecrets=[{"name": "login"}],
            )
            assert await world.output("with") == "one\n"

    with serving(busybox(None, layer(entry("text", b"one"))), "me:secret") as registry:
        asyncio.run(main(registry))


def test_secrets_of_both_forms_and_broken_ones():
    def data(key, document):
        text = document if isinstance(document, str) else json.dumps(document)
        return {"data": {key: base64.b64encode(text.encode()).decode()}}

    secrets = {
        "new": data(".dockerconfigjson", {"auths": {"a": {"auth": "1"}}}),
        "old": data(".dockercfg", {"b": {"auth": "2"}}),
        "broken": data(".dockerconfigjson", "{"),
        "odd": data(".dockerconfigjson", {"auths": "text"}),
        "other": data("key", "text"),
    }
    names = [*secrets, "absent"]
    pod = {
        "metadata": {"namespace": "default"},
        "spec": {"imagePullSecrets": [{"name": name} for name in names]},
    }
    found = pull_secrets(pod, lambda namespace, name: secrets.get(name))
    assert found == {"a": {"auth": "1"}, "b": {"auth": "2"}}


def test_without_skopeo_a_registrys_image_says_how_to_get_it(store):
    class Clock:
        def monotonic(self):
            return 0.0

    images = Images(None, store, Clock())
    container = {"image": "quay.io/team/app:v1"}
    with pytest.raises(PullProblem, match="kubarium image load") as caught:
        asyncio.run(images.provide(container, "namespaces", {}, lambda *_: None))
    assert caught.value.reason == "ErrImagePull"


def test_what_a_killed_pull_has_left_goes(store):
    (store.root / ".pull-x/image").mkdir(parents=True)
    (store.root / ".pull-auth-y").write_text("secret")
    remove_leftovers(store.root)
    assert list(store.root.iterdir()) == []


@needs_skopeo
def test_images_as_skopeo_writes_them_are_taken(store, tmp_path):
    """Another program's layouts and archives, not only our own."""
    built = Built([layer(entry("text", b"one")), layer(entry("other", b"two"))])
    built.layout(tmp_path / "source")
    for target in ("oci:{}/copy:v1", "oci-archive:{}/copy.tar:v1", "docker-archive:{}/d.tar:a/b:1"):
        text = target.format(tmp_path)
        command = ["skopeo", "--insecure-policy", "copy", "-q", f"oci:{tmp_path}/source:v1", text]
        subprocess.run(command, check=True, capture_output=True)
        record = find_at_path(store, parse_reference(text))
        tree = LayeredTree(store.unpacked(record))
        assert (tree.read("text"), tree.read("other")) == (b"one", b"two")
