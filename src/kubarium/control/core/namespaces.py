"""Namespace deletion: everything in it goes, pods first (KEP-5080), then the namespace itself."""

from __future__ import annotations

from functools import partial

from kubarium.api.kinds import EVENTS, NAMESPACES, PODS
from kubarium.api.resource import Document, Resource
from kubarium.base.errors import ApiError
from kubarium.control.core.served import ServedResources
from kubarium.runtime import writes
from kubarium.runtime.controller import Controller
from kubarium.runtime.protocol import Context, Informer, Key

FINALIZER = "kubernetes"
# Deletions of content wake us; this is for content whose end we may miss.
LOOK_AGAIN_S = 5.0


class NamespaceController:
    """Satisfies :class:`kubarium.runtime.protocol.Component`."""

    def __init__(self, context: Context, served: ServedResources) -> None:
        self._context = context
        self._served = served
        self._followed: dict[Resource, Informer] = {}
        self._terminating: dict[str, None] = {}
        self.controller = Controller("namespace-controller", context, self._reconcile, workers=2)
        self._namespaces = self.controller.watches(NAMESPACES)
        served.on_resource(self._follow)

    @property
    def name(self) -> str:
        return self.controller.name

    async def run(self) -> None:
        await self._served.wait_synced()
        await self.controller.run()

    def _follow(self, resource: Resource) -> None:
        if resource.namespaced and resource not in self._followed:
            informer = self._context.informers.get(resource)
            self._followed[resource] = informer
            informer.on_change(partial(self._content_changed))

    def _content_changed(self, old: Document | None, new: Document | None) -> None:
        if not self._terminating:
            return
        document = new if new is not None else old
        assert document is not None
        namespace = document["metadata"].get("namespace", "")
        if namespace in self._terminating and (new is None or old is None):
            self.controller.enqueue(("", namespace))

    async def _reconcile(self, key: Key) -> float | None:
        name = key[1]
        namespace = self._namespaces.get(name)
        if namespace is None or not writes.is_terminating(namespace):
            self._terminating.pop(name, None)
            return None
        finalizers = (namespace.get("spec") or {}).get("finalizers") or []
        if FINALIZER not in finalizers:
            return None
        self._terminating[name] = None
        failures = await self._delete_content(name)
        remaining = self._remaining(name)
        namespace = await self._write_status(namespace, remaining, failures)
        if remaining or failures:
            return LOOK_AGAIN_S
        await self._finalize(namespace, [item for item in finalizers if item != FINALIZER])
        return None

    async def _delete_content(self, name: str) -> list[str]:
        """Delete what can be deleted now; what failed, in words."""
        pods = self._followed.get(PODS)
        if pods is not None and pods.items(name):
            return await self._delete_all(PODS, name)
        failures: list[str] = []
        for resource, informer in self._followed.items():
            await informer.wait_synced()
            if any(not writes.is_terminating(item) for item in informer.items(name)):
                failures += await self._delete_all(resource, name)
        failures += await self._delete_all(EVENTS, name)
        return failures

    async def _delete_all(self, resource: Resource, name: str) -> list[str]:
        try:
            await self._context.client.delete_collection(
                resource, name, propagation_policy="Background"
            )
        except ApiError as error:
            if error.code in (404, 405):
                return []
            return [f"{resource.qualified}: {error}"]
        return []

    def _remaining(self, name: str) -> dict[Resource, list[Document]]:
        """Content that the copies still show, by resource."""
        found: dict[Resource, list[Document]] = {}
        for resource, informer in self._followed.items():
            items = informer.items(name)
            if items:
                found[resource] = items
        return found

    async def _write_status(
        self, namespace: Document, remaining: dict[Resource, list[Document]], failures: list[str]
    ) -> Document:
        now = self._context.clock.now()
        status = {**(namespace.get("status") or {}), "phase": "Terminating"}
        conditions: list[Document] = list(status.get("conditions") or ())
        for type_, is_true, reason, message in _conditions(remaining, failures):
            held = writes.find_condition({"conditions": conditions}, type_)
            state = "True" if is_true else "False"
            if held is None or (held["status"], held["message"]) != (state, message):
                conditions = writes.set_condition(conditions, type_, state, reason, message, now)
        status["conditions"] = conditions
        return await writes.update_status(self._context, NAMESPACES, namespace, status)

    async def _finalize(self, namespace: Document, finalizers: list[str]) -> None:
        document = {**namespace, "spec": {**namespace["spec"], "finalizers": finalizers}}
        try:
            await self._context.client.update(NAMESPACES, document, subresource="finalize")
        except ApiError as error:
            if error.reason != "NotFound":
                raise
        self._terminating.pop(namespace["metadata"]["name"], None)


def _conditions(
    remaining: dict[Resource, list[Document]], failures: list[str]
) -> list[tuple[str, bool, str, str]]:
    """(type, status, reason, message) of the five conditions of a namespace that is going."""
    counts = [
        f"{resource.qualified} has {len(items)} resource instances"
        for resource, items in remaining.items()
    ]
    held: dict[str, int] = {}
    for items in remaining.values():
        for item in items:
            for finalizer in item["metadata"].get("finalizers") or ():
                held[finalizer] = held.get(finalizer, 0) + 1
    holders = [f"{name} in {count} resource instances" for name, count in sorted(held.items())]
    return [
        (
            "NamespaceDeletionDiscoveryFailure",
            False,
            "ResourcesDiscovered",
            "All resources successfully discovered",
        ),
        (
            "NamespaceDeletionGroupVersionParsingFailure",
            False,
            "ParsedGroupVersions",
            "All legacy kube types successfully parsed",
        ),
        (
            "NamespaceDeletionContentFailure",
            bool(failures),
            "ContentDeletionFailed" if failures else "ContentDeleted",
            f"Failed to delete all resource types, {len(failures)} remaining: {'; '.join(failures)}"
            if failures
            else "All content successfully deleted, may be waiting on finalization",
        ),
        (
            "NamespaceContentRemaining",
            bool(counts),
            "SomeResourcesRemain" if counts else "ContentRemoved",
            f"Some resources are remaining: {', '.join(counts)}"
            if counts
            else "All content successfully removed",
        ),
        (
            "NamespaceFinalizersRemaining",
            bool(holders),
            "SomeFinalizersRemain" if holders else "ContentHasNoFinalizers",
            f"Some content in the namespace has finalizers remaining: {', '.join(holders)}"
            if holders
            else "All content-preserving finalizers finished",
        ),
    ]
