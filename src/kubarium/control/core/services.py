"""Keeps EndpointSlices and Endpoints equal to the pods that Services select."""

from __future__ import annotations

from collections.abc import Iterable
from functools import partial

from kubarium.api.kinds import ENDPOINT_SLICES, ENDPOINTS, NODES, PODS, SERVICES
from kubarium.api.resource import Document
from kubarium.base.errors import ApiError
from kubarium.control.core import endpoints as model
from kubarium.runtime import writes
from kubarium.runtime.controller import Controller, ControllerComponent
from kubarium.runtime.events import EventRecorder
from kubarium.runtime.parts import of_metadata
from kubarium.runtime.protocol import Context, Key
from kubarium.view.elastic import hostname_of

_BY_PAIR = "service-by-selector-pair"
# Pods are indexed by the labels that selectors begin with; rare ones are looked for by scanning.
MOST_LABEL_INDEXES = 32
_BY_SERVICE = "slice-by-service"
# Big Services: changes of pods are gathered for so long before their slices are written.
GATHER_S = 0.1
GATHER_FROM = 50


class EndpointsController(ControllerComponent):
    """Satisfies :class:`kubarium.runtime.protocol.Component`."""

    def __init__(self, context: Context) -> None:
        self._context = context
        self._recorder = EventRecorder(context, "endpoint-slice-controller")
        self.controller = Controller(
            "endpoint-slice-controller", context, self._reconcile, workers=4
        )
        self._services = self.controller.watches(SERVICES)
        self._services.add_index(_BY_PAIR, _selector_pair)
        self._pods = self.controller.reads(PODS)
        self._indexed: dict[str, str] = {}  # index name by label
        self._nodes = self.controller.reads(NODES)
        self._slices = self.controller.watches(ENDPOINT_SLICES, _service_of_slice)
        self._slices.add_index(_BY_SERVICE, _slice_index)
        self._legacy = self.controller.watches(ENDPOINTS)
        self._pods.on_change(self._pod_changed)

    def _pod_changed(self, old: Document | None, new: Document | None) -> None:
        keys: dict[Key, None] = {}
        for pod in (old, new):
            if pod is not None:
                keys.update(dict.fromkeys(self._services_of(pod)))
        if not keys or (old is not None and new is not None and _view(old) == _view(new)):
            return
        for key in keys:
            self.controller.enqueue(key, self._gather_s(key))

    def _services_of(self, pod: Document) -> Iterable[Key]:
        namespace = pod["metadata"]["namespace"]
        labels = pod["metadata"].get("labels") or {}
        for name, value in labels.items():
            for service in self._services.by_index(_BY_PAIR, f"{namespace}/{name}={value}"):
                if service["spec"]["selector"].items() <= labels.items():
                    yield namespace, service["metadata"]["name"]

    def _gather_s(self, key: Key) -> float:
        slices = self._slices.by_index(_BY_SERVICE, "/".join(key))
        count = sum(len(item.get("endpoints") or ()) for item in slices)
        return GATHER_S if count >= GATHER_FROM else 0.0

    async def _reconcile(self, key: Key) -> float | None:
        namespace, name = key
        service = self._services.get(name, namespace)
        held = [
            item
            for item in self._slices.by_index(_BY_SERVICE, f"{namespace}/{name}")
            if not writes.is_terminating(item)
        ]
        if service is None:
            for item in held:
                await writes.delete(self._context, ENDPOINT_SLICES, item)
            await self._delete_legacy(name, namespace)
            return None
        if not model.has_endpoints(service) or writes.is_terminating(service):
            return None
        wanted = self._endpoints(service)
        try:
            await self._write_slices(service, wanted, held)
            await self._write_legacy(service, wanted)
        except ApiError as error:
            if not _is_namespace_terminating(error):
                self._tell(service, error)
                raise
        return None

    def _tell(self, service: Document, error: ApiError) -> None:
        if error.reason == "Conflict":
            return
        name = service["metadata"]["name"]
        message = f"Error updating Endpoint Slices for Service {name}: {error}"
        self._recorder.event(service, "Warning", "FailedToUpdateEndpointSlices", message)

    def _endpoints(self, service: Document) -> list[tuple[list[Document], Document]]:
        namespace = service["metadata"]["namespace"]
        selector: dict[str, str] = service["spec"]["selector"]
        wanted: list[tuple[list[Document], Document]] = []
        for pod in self._pods_with(namespace, *min(selector.items())):
            labels = pod["metadata"].get("labels") or {}
            if not selector.items() <= labels.items() or not model.is_candidate(pod):
                continue
            node = self._nodes.get(pod["spec"].get("nodeName", ""))
            ports = model.ports_of(service, pod)
            wanted.append((ports, model.endpoint_of(service, pod, node)))
        return wanted

    def _pods_with(self, namespace: str, label: str, value: str) -> list[Document]:
        """Pods of a namespace that may have the label."""
        index = self._indexed.get(label)
        if index is None:
            if len(self._indexed) >= MOST_LABEL_INDEXES:
                return self._pods.items(namespace)
            index = self._indexed[label] = f"pod-by-label/{label}"
            self._pods.add_index(index, of_metadata(partial(_label_value, label)))
        return self._pods.by_index(index, f"{namespace}/{value}")

    async def _write_slices(
        self,
        service: Document,
        wanted: list[tuple[list[Document], Document]],
        held: list[Document],
    ) -> None:
        plan = model.plan_slices(service, wanted, held)
        namespace = service["metadata"]["namespace"]
        for document in plan.create:
            await writes.create(self._context, ENDPOINT_SLICES, document, namespace)
        for document in plan.update:
            await writes.update(self._context, ENDPOINT_SLICES, document)
        for document in plan.delete:
            await writes.delete(self._context, ENDPOINT_SLICES, document)

    async def _write_legacy(
        self, service: Document, wanted: list[tuple[list[Document], Document]]
    ) -> None:
        document = model.legacy_endpoints(service, wanted)
        metadata = service["metadata"]
        held = self._legacy.get(metadata["name"], metadata["namespace"])
        if held is None:
            await writes.create(self._context, ENDPOINTS, document, metadata["namespace"])
            return
        held_metadata = held["metadata"]
        same_labels = held_metadata.get("labels") == document["metadata"]["labels"]
        if (held.get("subsets") or []) == (document.get("subsets") or []) and same_labels:
            return
        changed = {**document, "metadata": {**held_metadata, **document["metadata"]}}
        await writes.update(self._context, ENDPOINTS, changed)

    async def _delete_legacy(self, name: str, namespace: str) -> None:
        held = self._legacy.get(name, namespace)
        labels = held["metadata"].get("labels") or {} if held is not None else {}
        if held is not None and labels.get(model.MANAGED_BY) == "endpoint-controller":
            await writes.delete(self._context, ENDPOINTS, held)


def _is_namespace_terminating(error: ApiError) -> bool:
    causes = error.details.get("causes") or ()
    return any(cause.get("reason") == "NamespaceTerminating" for cause in causes)


def _view(pod: Document) -> tuple[object, ...]:
    """What endpoints depend on."""
    metadata, spec, status = pod["metadata"], pod["spec"], pod.get("status") or {}
    return (
        status.get("podIP"),
        status.get("phase") in ("Succeeded", "Failed"),
        writes.condition_is_true(status, "Ready"),
        "deletionTimestamp" in metadata,
        spec.get("nodeName"),
        metadata.get("labels"),
        hostname_of(pod),
    )


def _selector_pair(service: Document) -> Iterable[str]:
    """One pair of the selector is enough to find the Service from a pod's labels."""
    if not model.has_endpoints(service):
        return ()
    name, value = min(service["spec"]["selector"].items())
    return (f"{service['metadata']['namespace']}/{name}={value}",)


def _label_value(label: str, pod: Document) -> Iterable[str]:
    value = (pod["metadata"].get("labels") or {}).get(label)
    return () if value is None else (f"{pod['metadata']['namespace']}/{value}",)


def _service_of_slice(item: Document) -> Iterable[Key]:
    labels = item["metadata"].get("labels") or {}
    if labels.get(model.MANAGED_BY) == model.MANAGER and model.SERVICE_NAME in labels:
        return ((item["metadata"]["namespace"], labels[model.SERVICE_NAME]),)
    return ()


def _slice_index(item: Document) -> Iterable[str]:
    return ["/".join(key) for key in _service_of_slice(item)]
