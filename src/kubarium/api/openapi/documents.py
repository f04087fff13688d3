"""Whole OpenAPI documents, serialised and cached until the catalog changes."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from typing import Any

import orjson

from kubarium import __version__
from kubarium.api.catalog import Catalog, Kind
from kubarium.api.openapi import protobuf
from kubarium.api.openapi.paths import Paths
from kubarium.api.openapi.schemas import Components
from kubarium.api.schema import KUBERNETES_VERSION

Json = dict[str, Any]
_INFO = {"title": "Kubernetes", "version": f"v{KUBERNETES_VERSION}.0"}


class OpenApi:
    """The OpenAPI documents of a catalog as JSON bytes.

    Documents are built when they are first asked for, since a client reads few of them, and kept
    until the catalog changes (its ``generation`` tells). Documents of groups that did not change
    survive: their hash covers all that goes into them.
    """

    def __init__(self, catalog: Catalog) -> None:
        self._catalog = catalog
        self._generation = -1
        self._hashes: dict[str, str] = {}
        self._documents: dict[str, tuple[str, bytes]] = {}

    def index(self) -> bytes:
        """``GET /openapi/v3``: the documents with their hashed addresses."""
        self._refresh()
        paths = {
            path: {"serverRelativeURL": f"/openapi/v3/{path}?hash={digest}"}
            for path, digest in self._hashes.items()
        }
        return orjson.dumps({"paths": paths})

    def digest(self, path: str) -> str:
        """The hash of a document (``api/v1``, ``apis/apps/v1``), or "" if there is none.

        A request that names this hash may be answered as immutable; it is also the ETag.
        """
        self._refresh()
        return self._hashes.get(path, "")

    def group(self, path: str) -> bytes | None:
        """``GET /openapi/v3/<path>``: one group version, or None if it is not served."""
        digest = self.digest(path)
        if not digest:
            return None
        return self._cached(path, digest, lambda: _group_document(self._kinds(path)))

    def v2(self) -> bytes:
        """``GET /openapi/v2``: everything as a Swagger 2.0 document."""
        return self._cached("v2", self.v2_digest(), lambda: _v2_document(self._catalog.kinds()))

    def v2_protobuf(self) -> bytes:
        """The Swagger document as protobuf; its content type is PROTOBUF_CONTENT_TYPE."""
        return self._cached(
            "v2-protobuf",
            self.v2_digest(),
            lambda: _v2_document(self._catalog.kinds()),
            protobuf.encode,
        )

    def v2_digest(self) -> str:
        """The hash of the Swagger document; its ETag."""
        self._refresh()
        return _digest("".join(self._hashes.values()).encode())

    def _cached(
        self,
        name: str,
        digest: str,
        build: Callable[[], Json],
        encode: Callable[[Json], bytes] = orjson.dumps,
    ) -> bytes:
        known = self._documents.get(name)
        if known is None or known[0] != digest:
            known = self._documents[name] = (digest, encode(build()))
        return known[1]

    def _refresh(self) -> None:
        if self._generation == self._catalog.generation:
            return
        self._generation = self._catalog.generation
        self._hashes = {path: _fingerprint(self._kinds(path)) for path in self._paths()}
        for name in [name for name in self._documents if name not in self._hashes]:
            if not name.startswith("v2"):
                del self._documents[name]

    def _paths(self) -> list[str]:
        return [
            f"apis/{group}/{version}" if group else f"api/{version}"
            for group, versions in self._catalog.groups().items()
            for version in versions
        ]

    def _kinds(self, path: str) -> list[Kind]:
        parts = path.split("/")
        return self._catalog.in_version(parts[1] if len(parts) == 3 else "", parts[-1])


def _digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest().upper()


def _fingerprint(kinds: list[Kind]) -> str:
    """Covers all that a document is made of, at a fraction of its cost for built-in kinds."""
    custom = [kind for kind in kinds if kind.custom]
    parts = [__version__, KUBERNETES_VERSION]
    parts += [f"{k.resource.kind}:{k.list_kind}:{sorted(k.subresources)}" for k in kinds]
    shapes = orjson.dumps(_group_document(custom, described=False)) if custom else b""
    return _digest("\n".join(parts).encode() + shapes)


def _group_document(kinds: list[Kind], described: bool = True) -> Json:
    components = Components(3, described)
    return {
        "openapi": "3.0.0",
        "info": _INFO,
        "paths": _all_paths(kinds, components),
        "components": {"schemas": dict(sorted(components.rendered.items()))},
    }


def _v2_document(kinds: list[Kind]) -> Json:
    components = Components(2)
    return {
        "swagger": "2.0",
        "info": _INFO,
        "paths": _all_paths(kinds, components),
        "definitions": dict(sorted(components.rendered.items())),
    }


def _all_paths(kinds: list[Kind], components: Components) -> Json:
    for kind in kinds:
        components.add_kind(kind)
    paths = Paths(components)
    return {path: item for kind in kinds for path, item in sorted(paths.of(kind).items())}
