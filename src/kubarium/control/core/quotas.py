"""Keeps ``status`` of ResourceQuotas equal to what their namespaces use.

Admission enforces quotas from what is stored and does not need this: here what users read comes
right when a quota is new or changed, and when objects end or go.
"""

from __future__ import annotations

from fractions import Fraction
from functools import partial

from kubarium.api.device_quotas import counts_resources, resource_names
from kubarium.api.kinds import DEVICE_CLASSES, RESOURCE_QUOTAS
from kubarium.api.quotas import Usage, counts, in_scope, status_of, usage_of
from kubarium.api.resource import Document, Resource
from kubarium.control.core.served import ServedResources
from kubarium.runtime import writes
from kubarium.runtime.controller import Controller
from kubarium.runtime.protocol import Context, Key

# Changes in a namespace are gathered for so long before its usage is counted again.
GATHER_S = 0.5


class QuotaController:
    """Satisfies :class:`kubarium.runtime.protocol.Component`. Keys are namespaces."""

    def __init__(self, context: Context, served: ServedResources) -> None:
        self._context = context
        self._served = served
        self.controller = Controller("resourcequota-controller", context, self._reconcile)
        self._quotas = self.controller.reads(RESOURCE_QUOTAS)
        self._quotas.on_change(self._quota_changed)
        self._classes = self.controller.reads(DEVICE_CLASSES)
        self._classes.on_change(self._class_changed)
        self._gathering: dict[str, None] = {}
        self._limited: dict[str, None] = {}  # namespaces with a quota
        served.on_resource(self._follow)

    @property
    def name(self) -> str:
        return self.controller.name

    async def run(self) -> None:
        await self._served.wait_synced()
        await self.controller.run()

    def _follow(self, resource: Resource) -> None:
        if resource.namespaced:
            informer = self._context.informers.get(resource)
            informer.on_change(partial(self._object_changed, resource))

    def _quota_changed(self, old: Document | None, new: Document | None) -> None:
        document = new or old
        assert document is not None
        if old is None or new is None or old.get("spec") != new.get("spec"):
            self._limited[document["metadata"]["namespace"]] = None
            self._gather(document["metadata"]["namespace"])

    def _class_changed(self, old: Document | None, new: Document | None) -> None:
        """A class that answers another resource changes what claims of it count as."""
        if resource_names([old] if old else []) != resource_names([new] if new else []):
            for namespace in self._limited:
                self._gather(namespace)

    def _object_changed(
        self, resource: Resource, old: Document | None, new: Document | None
    ) -> None:
        document = new or old
        assert document is not None
        namespace = document["metadata"].get("namespace", "")
        if namespace in self._limited and not _uses_the_same(resource, old, new):
            self._gather(namespace)

    def _gather(self, namespace: str) -> None:
        if namespace not in self._gathering:
            self._gathering[namespace] = None
            self.controller.enqueue(("", namespace), GATHER_S)

    async def _reconcile(self, key: Key) -> float | None:
        namespace = key[1]
        self._gathering.pop(namespace, None)
        quotas = self._quotas.items(namespace)
        if not quotas:
            self._limited.pop(namespace, None)
        for quota in quotas:
            hard = (quota.get("spec") or {}).get("hard") or {}
            status = status_of(hard, self._usage(quota, hard))
            await writes.update_status(self._context, RESOURCE_QUOTAS, quota, status)
        return None

    def _usage(self, quota: Document, hard: Document) -> Usage:
        total: Usage = {}
        named = resource_names(self._classes.items()) if counts_resources(hard) else {}
        for resource in self._served.resources():
            if not resource.namespaced or not counts(resource, hard):
                continue
            informer = self._context.informers.get(resource)
            for document in informer.items(quota["metadata"]["namespace"]):
                if in_scope(quota, resource, document):
                    for name, amount in usage_of(resource, document, hard, named).items():
                        total[name] = total.get(name, Fraction(0)) + amount
        return total


def _uses_the_same(resource: Resource, old: Document | None, new: Document | None) -> bool:
    """Whether a change cannot change usage: all but spec, and for pods phase, does not count."""
    if old is None or new is None:
        return False
    if old.get("spec") != new.get("spec"):
        return False
    if resource.group or resource.plural != "pods":
        return True
    return (old.get("status") or {}).get("phase") == (new.get("status") or {}).get("phase")
