"""Discovery: which groups, versions and resources there are, in both of its forms.

The aggregated form (``apidiscovery.k8s.io``) answers everything in two requests, the legacy one
takes a request for each group version. Pure functions of the catalog.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from kubarium.api.catalog import Catalog, Kind
from kubarium.api.resource import Document
from kubarium.api.schema import KUBERNETES_VERSION

_READ_WRITE = ("get", "patch", "update")
_ALL_VERBS = ("create", "delete", "get", "patch", "update")


class _Sub(NamedTuple):
    """Kind and verbs of a subresource; group and version None are those of its resource."""

    verbs: tuple[str, ...]
    kind: str = ""
    group: str | None = None
    version: str | None = None


_SUBRESOURCES = {
    "status": _Sub(_READ_WRITE),
    "resize": _Sub(_READ_WRITE),
    "ephemeralcontainers": _Sub(_READ_WRITE),
    "approval": _Sub(_READ_WRITE),
    "finalize": _Sub(("update",)),
    "log": _Sub(("get",)),
    "scale": _Sub(_READ_WRITE, "Scale", "autoscaling", "v1"),
    "binding": _Sub(("create",), "Binding"),
    "eviction": _Sub(("create",), "Eviction", "policy", "v1"),
    "token": _Sub(("create",), "TokenRequest", "authentication.k8s.io", "v1"),
    "exec": _Sub(("create", "get"), "PodExecOptions"),
    "attach": _Sub(("create", "get"), "PodAttachOptions"),
    "portforward": _Sub(("create", "get"), "PodPortForwardOptions"),
    "proxy": _Sub(_ALL_VERBS),
}


class _Served(NamedTuple):
    name: str
    verbs: tuple[str, ...]
    group: str
    version: str
    kind: str


def _subresources(kind: Kind) -> Iterator[_Served]:
    resource = kind.resource
    for name in sorted(kind.subresources):
        sub = _SUBRESOURCES.get(name, _Sub(("get",)))
        own = f"{resource.kind}ProxyOptions" if name == "proxy" else resource.kind
        yield _Served(
            name,
            sub.verbs,
            resource.group if sub.group is None else sub.group,
            resource.version if sub.version is None else sub.version,
            sub.kind or own,
        )


# Legacy form


def api_versions(address: str) -> Document:
    """``GET /api``."""
    return {
        "kind": "APIVersions",
        "versions": ["v1"],
        "serverAddressByClientCIDRs": [{"clientCIDR": "0.0.0.0/0", "serverAddress": address}],
    }


def _group(name: str, versions: list[str]) -> Document:
    served = [{"groupVersion": f"{name}/{version}", "version": version} for version in versions]
    return {"name": name, "versions": served, "preferredVersion": served[0]}


def api_groups(catalog: Catalog) -> Document:
    """``GET /apis``."""
    groups = [_group(name, versions) for name, versions in catalog.groups().items() if name]
    return {"kind": "APIGroupList", "apiVersion": "v1", "groups": groups}


def api_group(catalog: Catalog, name: str) -> Document | None:
    """``GET /apis/{group}``; None if it is not served."""
    versions = catalog.groups().get(name)
    if not name or versions is None:
        return None
    return {"kind": "APIGroup", "apiVersion": "v1", **_group(name, versions)}


def api_resources(catalog: Catalog, group: str, version: str) -> Document | None:
    """``GET /api/v1`` and ``GET /apis/{group}/{version}``; None if it is not served."""
    kinds = catalog.in_version(group, version)
    if not kinds:
        return None
    resources: list[Document] = []
    for kind in kinds:
        resources.append(_legacy_resource(kind))
        resources.extend(_legacy_subresource(kind, sub) for sub in _subresources(kind))
    return {
        "kind": "APIResourceList",
        "apiVersion": "v1",
        "groupVersion": f"{group}/{version}" if group else version,
        "resources": resources,
    }


def _legacy_resource(kind: Kind) -> Document:
    resource: Document = {
        "name": kind.resource.plural,
        "singularName": kind.singular,
        "namespaced": kind.namespaced,
        "kind": kind.resource.kind,
        "verbs": list(kind.verbs),
    }
    if kind.short_names:
        resource["shortNames"] = list(kind.short_names)
    if kind.categories:
        resource["categories"] = list(kind.categories)
    return resource


def _legacy_subresource(kind: Kind, sub: _Served) -> Document:
    resource: Document = {
        "name": f"{kind.resource.plural}/{sub.name}",
        "singularName": "",
        "namespaced": kind.namespaced,
        "kind": sub.kind,
        "verbs": list(sub.verbs),
    }
    if (sub.group, sub.version) != (kind.resource.group, kind.resource.version):
        resource |= {"group": sub.group, "version": sub.version}
    return resource


# Aggregated form


def aggregated(catalog: Catalog, core: bool, version: str) -> Document:
    """``APIGroupDiscoveryList``: the core group alone (``/api``) or all others (``/apis``).

    ``version`` is v2 or v2beta1, which have the same shape.
    """
    return {
        "kind": "APIGroupDiscoveryList",
        "apiVersion": f"apidiscovery.k8s.io/{version}",
        "metadata": {},
        "items": [
            {
                "metadata": {"name": name, "creationTimestamp": None},
                "versions": [_aggregated_version(catalog, name, each) for each in versions],
            }
            for name, versions in catalog.groups().items()
            if (not name) == core
        ],
    }


def _aggregated_version(catalog: Catalog, group: str, version: str) -> Document:
    return {
        "version": version,
        "resources": [_aggregated_resource(kind) for kind in catalog.in_version(group, version)],
        "freshness": "Current",
    }


def _aggregated_resource(kind: Kind) -> Document:
    resource = kind.resource
    document: Document = {
        "resource": resource.plural,
        "responseKind": {
            "group": resource.group,
            "version": resource.version,
            "kind": resource.kind,
        },
        "scope": "Namespaced" if kind.namespaced else "Cluster",
        "singularResource": kind.singular,
        "verbs": list(kind.verbs),
    }
    if kind.short_names:
        document["shortNames"] = list(kind.short_names)
    if kind.categories:
        document["categories"] = list(kind.categories)
    subresources = [
        {
            "subresource": sub.name,
            "responseKind": {"group": sub.group, "version": sub.version, "kind": sub.kind},
            "verbs": list(sub.verbs),
        }
        for sub in _subresources(kind)
    ]
    if subresources:
        document["subresources"] = subresources
    return document


# Others

# Paths that ``GET /`` names besides those of the groups.
_PATHS = (
    "/healthz",
    "/livez",
    "/metrics",
    "/openapi/v2",
    "/openapi/v3",
    "/readyz",
    "/version",
)


def root_paths(catalog: Catalog) -> Document:
    """``GET /``."""
    paths = ["/api", "/api/v1", "/apis"]
    for group, versions in catalog.groups().items():
        if group:
            paths.append(f"/apis/{group}")
            paths.extend(f"/apis/{group}/{version}" for version in versions)
    return {"paths": [*sorted(paths), *_PATHS]}


def version_info(build: str) -> Document:
    """``GET /version``: the Kubernetes version that the API has, and who serves it."""
    major, minor = KUBERNETES_VERSION.split(".")
    return {
        "major": major,
        "minor": minor,
        "emulationMajor": major,
        "emulationMinor": minor,
        "minCompatibilityMajor": major,
        "minCompatibilityMinor": str(int(minor) - 1),
        "gitVersion": f"v{KUBERNETES_VERSION}.0+kubarium.{build}",
        "gitCommit": "",
        "gitTreeState": "clean",
        "buildDate": "1970-01-01T00:00:00Z",
        "goVersion": "",
        "compiler": "",
        "platform": "python",
    }
