"""What a pod and its containers need before they run: objects that they name, tokens, devices,
images, and a handler of their RuntimeClass. Read from the API; made by the process runtime."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

from kubarium.api.kinds import (
    CONFIG_MAPS,
    PERSISTENT_VOLUME_CLAIMS,
    PERSISTENT_VOLUMES,
    SECRETS,
    SERVICE_ACCOUNTS,
    SERVICES,
)
from kubarium.api.resource import Document, Resource
from kubarium.base.errors import ApiError
from kubarium.node.config import NodeConfig
from kubarium.node.drivers.prepare import (
    ANY_OTHER,
    NO_GPUS,
    ClaimProblem,
    Edits,
    container_edits,
    fetch_claims,
    guards_gpus,
    has_claims,
)
from kubarium.node.environment import Sources
from kubarium.node.images import Image
from kubarium.node.lifecycle.plan import field_path
from kubarium.node.oci.pull import pull_secrets
from kubarium.node.references import referred_objects
from kubarium.node.runtimes.oci.classes import RuntimeClasses
from kubarium.node.runtimes.oci.handlers import UnknownHandler
from kubarium.node.runtimes.process.pods import PrepareFailed, ProcessPods
from kubarium.node.volumes import MountProblem, VolumeSources
from kubarium.runtime.events import EventRecorder
from kubarium.runtime.protocol import Context

_LOG = logging.getLogger("kubarium.node")

# The port of the kubernetes service.
API_PORT = 443


class Provisions:
    """For the pods of one agent. ``drivers`` by device driver and node."""

    def __init__(
        self,
        context: Context,
        recorder: EventRecorder,
        pods: ProcessPods,
        drivers: Mapping[str, object],
    ) -> None:
        self._context = context
        self._recorder = recorder
        self._pods = pods
        self._drivers = drivers
        self._classes = RuntimeClasses(context)

    def handler(self, pod: Document) -> str:
        """The handler that the pod's RuntimeClass names; "" for the node's own choice."""
        return self._classes.handler(pod)

    async def fetch(self, pod: Document) -> None:
        """Bring in objects that the pod names and that no watch has shown yet: a pod may be seen
        before the ConfigMap that was created just before it."""
        namespace = pod["metadata"].get("namespace", "")
        for resource, name in referred_objects(pod):
            informer = self._context.informers.get(resource)
            if informer.get(name, namespace) is not None:
                continue
            try:
                informer.observe(await self._context.client.get(resource, name, namespace))
            except ApiError as error:
                if error.reason != "NotFound":
                    _LOG.warning("%s %s/%s: %s", resource.plural, namespace, name, error)

    async def check_handler(self, pod: Document) -> None:
        """Whether this node has what the pod's RuntimeClass asks for; PrepareFailed."""
        try:
            await self._classes.fetch(pod)
            self._pods.handlers.check(self._classes.handler(pod))
        except UnknownHandler as error:
            text = f"Failed to create pod sandbox: {error}"
            raise PrepareFailed("FailedCreatePodSandBox", text) from error

    async def provide_image(
        self, pod: Document, container: Mapping[str, Any], handler: str
    ) -> Image:
        """The image of a container; PullProblem."""
        auths = pull_secrets(pod, self._secret)

        part = field_path(pod, container["name"])

        def tell(kind: str, reason: str, text: str) -> None:
            self._recorder.event(pod, kind, reason, text, field_path=part)

        return await self._pods.images.provide(container, handler, auths, tell)

    def _secret(self, namespace: str, name: str) -> Document | None:
        return self._context.informers.get(SECRETS).get(name, namespace)

    async def prepare_devices(self, pod: Document) -> dict[str, Edits]:
        """What containers get, from the pod's claims; PrepareFailed in kubelet's wording."""
        if not has_claims(pod):
            guarded = guards_gpus(self._drivers, pod["spec"].get("nodeName", ""))
            return {ANY_OTHER: NO_GPUS} if guarded else {}
        try:
            claims = await fetch_claims(self._context.client, pod)
            edits = container_edits(pod, lambda ns, name: claims.get(name), self._drivers)
            for note in dict.fromkeys(note for given in edits.values() for note in given.notes):
                self._recorder.event(pod, "Warning", "DeviceConfigNotApplied", note)
            return edits
        except ClaimProblem as problem:
            text = f"Failed to prepare dynamic resources: prepare dynamic resources: {problem}"
            raise PrepareFailed("FailedPrepareDynamicResources", text) from problem


def volume_sources(context: Context, config: NodeConfig, is_root: bool) -> VolumeSources:
    """Where the volumes of pods take what they show from."""

    def reader(resource: Resource) -> Callable[[str, str], Document | None]:
        return lambda namespace, name: context.informers.get(resource).get(name, namespace)

    volumes = reader(PERSISTENT_VOLUMES)
    return VolumeSources(
        Sources(
            reader(CONFIG_MAPS),
            reader(SECRETS),
            lambda namespace: context.informers.get(SERVICES).items(namespace),
            config.api_host,
            config.api_port,
            (config.network.api, API_PORT) if config.network else None,
        ),
        reader(PERSISTENT_VOLUME_CLAIMS),
        lambda name: volumes("", name),
        partial(_token, context),
        Path(config.root).resolve() / "claims",
        context.clock.now,
        config.api_ca,
        is_root,
    )


async def _token(context: Context, pod: Document, audience: str, lifetime_s: int) -> str:
    metadata = pod["metadata"]
    account = pod["spec"].get("serviceAccountName") or "default"
    request: Document = {
        "apiVersion": "authentication.k8s.io/v1",
        "kind": "TokenRequest",
        "spec": {
            "audiences": [audience] if audience else [],
            "expirationSeconds": lifetime_s,
            "boundObjectRef": {
                "apiVersion": "v1",
                "kind": "Pod",
                "name": metadata["name"],
                "uid": metadata["uid"],
            },
        },
    }
    try:
        answer = await context.client.create(
            SERVICE_ACCOUNTS,
            request,
            metadata.get("namespace", ""),
            name=account,
            subresource="token",
        )
    except ApiError as error:
        raise MountProblem(f"failed to fetch token: {error}") from error
    return str(answer["status"]["token"])
