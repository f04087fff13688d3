"""Images from files into the store, verified."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from dataclasses import replace
from typing import IO

from kubarium.node.oci.compression import suffix_of
from kubarium.node.oci.config import (
    CONFIG,
    INDEXES,
    LAYER,
    MANIFEST,
    Descriptor,
    Platform,
    choose,
    descriptor,
    parse_config,
    parse_json,
    parse_manifest,
    this_platform,
)
from kubarium.node.oci.errors import ImageProblem, PullProblem
from kubarium.node.oci.reference import DOCKER_ARCHIVE, OCI_ARCHIVE, Reference, parse_reference
from kubarium.node.oci.sources import (
    Files,
    Listed,
    Saved,
    as_stream,
    kind_of,
    list_layout,
    list_saved,
    open_files,
    pick,
    read_small,
)
from kubarium.node.oci.store import FOUND, LOADED, ImageStore, Record, check_layers

_DEEPEST = 4


def stamp_of(path: str) -> str:
    """Changes when what is at ``path`` does; "" if nothing is there."""
    try:
        looked = os.path.join(path, "index.json") if os.path.isdir(path) else path
        found = os.stat(looked)
    except OSError:
        return ""
    return f"{found.st_ino}:{found.st_size}:{found.st_mtime_ns}"


def find_at_path(store: ImageStore, reference: Reference, wanted: Platform | None = None) -> Record:
    """Take the image that ``reference`` (of files) names into the store. ImageProblem."""
    stamp = stamp_of(reference.path)
    with store.locked(), open_files(reference.path) as files:
        _check_kind(reference, kind_of(files))
        if reference.transport == DOCKER_ARCHIVE:
            saved = _pick_saved(list_saved(files), reference.tag, reference.path)
            record = _take_saved(store, files, saved, wanted)
        else:
            listed = pick(list_layout(files), reference.tag, reference.path)
            record = _take_listed(store, files, listed, wanted)
        found = replace(record, stamp=stamp)
        store.remember(reference.canonical, found)
    return found


def load(
    store: ImageStore,
    path: str,
    names: Sequence[str] = (),
    wanted: Platform | None = None,
    origin: str = LOADED,
) -> list[str]:
    """Take images at ``path`` into the store under their own names, or all that is there under
    ``names``; the names. ImageProblem."""
    loaded: list[str] = []
    with store.locked(), open_files(path) as files:
        found: list[tuple[Record, Sequence[str]]] = []
        if kind_of(files) == DOCKER_ARCHIVE:
            every = list_saved(files)
            found += [(_take_saved(store, files, one, wanted), one.names) for one in every]
        else:
            groups: dict[tuple[str, str], list[Listed]] = {}
            for one in list_layout(files):
                groups.setdefault((one.tag, one.name), []).append(one)
            for (tag, name), group in groups.items():
                known_as = name or _full(tag)
                taken = _take_listed(store, files, group, wanted)
                found.append((taken, [known_as] if known_as else []))
        if names and len(found) != 1:
            raise ImageProblem(f"{path} holds {len(found)} images: it can be given no other name")
        for record, own in found:
            for name in names or own:
                full = _canonical(name)
                store.remember(full, replace(record, origin=origin))
                loaded.append(full)
        if not loaded:
            raise ImageProblem(
                f"the image in {path} has no name: give it one "
                f"(kubarium image load {path} --tag registry.example.com/team/app:v1)"
            )
    return loaded


def _full(tag: str) -> str:
    """A layout's tag where it is a whole name; "v1" alone names nothing."""
    return tag if "/" in tag or ":" in tag else ""


def _canonical(name: str) -> str:
    try:
        return parse_reference(name).canonical
    except PullProblem as problem:
        raise ImageProblem(f"{name!r} is no image name: {problem}") from problem


def _check_kind(reference: Reference, kind: str) -> None:
    # Docker writes both forms into one archive now.
    if kind != reference.transport and (reference.transport, kind) != (DOCKER_ARCHIVE, OCI_ARCHIVE):
        raise ImageProblem(f"{reference.path} is no {reference.transport}: write {kind}:")


# OCI layouts ---------------------------------------------------------------------------------


def _take_listed(
    store: ImageStore, files: Files, listed: Sequence[Listed], wanted: Platform | None
) -> Record:
    here = wanted or this_platform()
    entries = [one.entry for one in listed]
    chosen = descriptor(entries[0], files.what)
    index = chosen.digest
    if len(entries) > 1:
        chosen = choose(entries, here, files.what)
    for _ in range(_DEEPEST):
        if chosen.media_type not in INDEXES:
            break
        data = _blob_bytes(files, chosen)
        inner = parse_json(data, f"index {chosen.digest}").get("manifests")
        if not isinstance(inner, list):
            raise ImageProblem(f"index {chosen.digest} lists no manifests")
        chosen = choose(inner, here, files.what)
    manifest = parse_manifest(_blob_bytes(files, chosen), f"manifest {chosen.digest}")
    config = parse_config(_blob_bytes(files, manifest.config), f"config {manifest.config.digest}")
    _check_platform(config.platform, here, files.what)
    check_layers(config, manifest)
    for blob in (*manifest.layers, manifest.config, chosen):
        if not store.has(blob.digest):
            with _open_blob(files, blob) as stream:
                store.add(stream, blob.digest, blob.size)
    return Record(chosen.digest, manifest.config.digest, manifest.size, FOUND, "", index)


def _open_blob(files: Files, wanted: Descriptor) -> IO[bytes]:
    name = wanted.digest.replace(":", "/")
    try:
        return files.open(f"blobs/{name}")
    except FileNotFoundError as error:
        kind = "layer" if "layer" in wanted.media_type else "blob"
        raise ImageProblem(f"{files.what}: {kind} {wanted.digest} is missing") from error


def _blob_bytes(files: Files, wanted: Descriptor) -> bytes:
    _open_blob(files, wanted).close()
    return read_small(files, f"blobs/{wanted.digest.replace(':', '/')}")


def _check_platform(found: Platform, here: Platform, what: str) -> None:
    if found.architecture and not here.runs(found):
        raise ImageProblem(f"{what}: the image is for {found}, this machine is {here}")


# docker save ---------------------------------------------------------------------------------


def _pick_saved(saved: Sequence[Saved], tag: str, what: str) -> Saved:
    found = [one for one in saved if not tag or _canonical(tag) in map(_canonical, one.names)]
    if len(found) == 1:
        return found[0]
    names = ", ".join(name for one in saved for name in one.names) or "images without names"
    if not found:
        raise ImageProblem(f"{what} has no image {tag!r} (there: {names})")
    raise ImageProblem(f"{what} has several images: name one of {names} after the path")


def _take_saved(store: ImageStore, files: Files, saved: Saved, wanted: Platform | None) -> Record:
    """Such an archive has no manifest in OCI's form: it gets one."""
    data = read_small(files, saved.config)
    config = parse_config(data, f"{files.what}: {saved.config}")
    _check_platform(config.platform, wanted or this_platform(), files.what)
    if len(config.diff_ids) != len(saved.layers):
        raise ImageProblem(
            f"{files.what}: {len(saved.layers)} layers, but the config names {len(config.diff_ids)}"
        )
    layers = []
    for name in saved.layers:
        try:
            with files.open(name) as stream:
                kind = LAYER + suffix_of(stream)
                digest, size = store.add(stream)
        except FileNotFoundError as error:
            raise ImageProblem(f"{files.what}: layer {name} is missing") from error
        layers.append({"mediaType": kind, "digest": digest, "size": size})
    own, size = store.add(as_stream(data))
    manifest = {
        "schemaVersion": 2,
        "mediaType": MANIFEST,
        "config": {"mediaType": CONFIG, "digest": own, "size": size},
        "layers": layers,
    }
    text = json.dumps(manifest, separators=(",", ":")).encode()
    digest, _ = store.add(as_stream(text))
    total = parse_manifest(text, "manifest").size
    return Record(digest, own, total, FOUND)
