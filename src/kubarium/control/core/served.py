"""Which resources exist: the built-in ones and those of CustomResourceDefinitions, as they come.

The garbage collector and the namespace controller work on all of them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

from kubarium.api.catalog import Catalog
from kubarium.api.kinds import CUSTOM_RESOURCE_DEFINITIONS
from kubarium.api.resource import Document, Resource
from kubarium.runtime.protocol import Context
from kubarium.runtime.writes import condition_is_true

# Neither owned nor owning; Events alone would outnumber everything else.
_IGNORED = {
    ("", "events"),
    ("", "componentstatuses"),
    ("events.k8s.io", "events"),
    ("internal.apiserver.k8s.io", "storageversions"),
}


class ServedResources:
    """Each kind once, in its storage version, without Events."""

    def __init__(self, context: Context, catalog: Catalog | None = None) -> None:
        """``catalog``: the built-in kinds; Kubernetes' own if None."""
        builtin = catalog or Catalog.builtin()
        self._by_kind: dict[tuple[str, str], Resource] = {}
        self._resources: dict[tuple[str, str], Resource] = {}
        self._listeners: list[Callable[[Resource], None]] = []
        self._replicas: dict[Resource, tuple[str, ...]] = {}
        for kind in builtin.storage_kinds():
            if not kind.custom:
                self._add(kind.resource)
                if kind.scale is not None:
                    self._replicas[kind.resource] = kind.scale.spec_replicas
        self._definitions = context.informers.get(CUSTOM_RESOURCE_DEFINITIONS)
        self._definitions.on_change(self._definition_changed)

    async def wait_synced(self) -> None:
        """Until the definitions of custom resources are known."""
        await self._definitions.wait_synced()

    def on_resource(self, listener: Callable[[Resource], None]) -> None:
        """Call ``listener`` for every resource, now and when one is added."""
        self._listeners.append(listener)
        for resource in list(self._resources.values()):
            listener(resource)

    def resources(self) -> list[Resource]:
        """All of them, in order of discovery."""
        return list(self._resources.values())

    def find(self, api_version: str, kind: str) -> Resource | None:
        """The resource that an ownerReference means, in the version that we watch."""
        group = api_version.rpartition("/")[0]
        return self._by_kind.get((group, kind))

    def replicas_path(self, resource: Resource) -> tuple[str, ...] | None:
        """Where objects say how many replicas they want; None without a scale subresource."""
        return self._replicas.get(resource)

    def _add(self, resource: Resource) -> None:
        if (resource.group, resource.plural) in _IGNORED:
            return
        self._by_kind[resource.group, resource.kind] = resource
        self._resources[resource.group, resource.plural] = resource
        for listener in self._listeners:
            listener(resource)

    def _definition_changed(self, old: Document | None, new: Document | None) -> None:
        if new is None:
            for resource, _ in _resources_of(old or {}):
                self._replicas.pop(resource, None)
                self._resources.pop((resource.group, resource.plural), None)
                self._by_kind.pop((resource.group, resource.kind), None)
            return
        for resource, replicas in _resources_of(new):
            self._replicas.pop(resource, None)
            if replicas:
                self._replicas[resource] = replicas
            if self._resources.get((resource.group, resource.plural)) != resource:
                self._add(resource)


def _resources_of(definition: Document) -> Iterable[tuple[Resource, tuple[str, ...]]]:
    """The storage version of an established definition, and where it says its replicas."""
    spec = definition.get("spec") or {}
    if not condition_is_true(definition.get("status") or {}, "Established"):
        return
    for version in spec.get("versions") or ():
        if version.get("storage") and version.get("served"):
            names = spec["names"]
            namespaced = spec.get("scope") == "Namespaced"
            resource = Resource(
                spec["group"], version["name"], names["plural"], names["kind"], namespaced
            )
            scale = (version.get("subresources") or {}).get("scale") or {}
            path = str(scale.get("specReplicasPath") or "")
            yield resource, tuple(step for step in path.split(".") if step)
