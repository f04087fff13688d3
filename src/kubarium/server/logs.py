"""The log subresource: which container's output, and from where."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from dataclasses import replace

from kubarium.api.logs import LogOptions
from kubarium.api.resource import Document
from kubarium.base.errors import ApiError, bad_request
from kubarium.view.tuning import COLLECTOR, METRICS

LogSource = Callable[[str, str, LogOptions], AsyncIterator[bytes]]


def open_log(source: LogSource | None, pod: Document, options: LogOptions) -> AsyncIterator[bytes]:
    """The output of one container of ``pod``. ApiError 400 if it is unclear which, 503 if no node
    agent answers."""
    container = choose_container(pod, options.container)
    if source is None:
        raise ApiError(503, "ServiceUnavailable", "no node agent is here that could give logs")
    metadata = pod["metadata"]
    return source(metadata["namespace"], metadata["name"], replace(options, container=container))


def choose_container(pod: Document, wanted: str) -> str:
    """``wanted``, or the only container there is; ApiError 400 if it is unclear which."""
    spec, name = pod.get("spec") or {}, pod["metadata"]["name"]
    containers = [c["name"] for c in spec.get("containers") or ()]
    initial = [c["name"] for c in spec.get("initContainers") or ()]
    ephemeral = [c["name"] for c in spec.get("ephemeralContainers") or ()]
    if wanted == COLLECTOR and METRICS in (pod["metadata"].get("annotations") or {}):
        return str(containers[0])  # its node reads the metrics from this output, without a sidecar
    if wanted:
        if wanted not in (*containers, *initial, *ephemeral):
            raise bad_request(f"container {wanted} is not valid for pod {name}")
        return wanted
    if len(containers) == 1:
        return str(containers[0])
    if not containers:
        raise bad_request(f"a container name must be specified for pod {name}")
    choices = f"a container name must be specified for pod {name}, choose one of: "
    choices += f"[{' '.join(containers)}]"
    if initial:
        choices += f" or one of the init containers: [{' '.join(initial)}]"
    raise bad_request(choices)
