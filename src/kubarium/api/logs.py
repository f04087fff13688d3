"""Options of the pod ``log`` subresource, and which container is meant: for server and node."""

from __future__ import annotations

from dataclasses import dataclass

from kubarium.api.resource import Document
from kubarium.base.errors import bad_request


@dataclass(frozen=True, slots=True)
class LogOptions:
    """``PodLogOptions``: what part of which container's output is wanted."""

    container: str = ""
    follow: bool = False
    previous: bool = False
    timestamps: bool = False
    tail_lines: int | None = None
    limit_bytes: int | None = None
    since_seconds: int | None = None
    since_time: str = ""


def choose_container(pod: Document, wanted: str) -> str:
    """``wanted``, or the only container there is; ApiError 400 if it is unclear which.

    Source: validateContainer of upstream's ``pkg/registry/core/pod/strategy.go``.
    """
    spec, name = pod.get("spec") or {}, pod["metadata"]["name"]
    mains = [c["name"] for c in spec.get("containers") or ()]
    if not wanted and len(mains) == 1:
        return str(mains[0])
    initial = [c["name"] for c in spec.get("initContainers") or ()]
    ephemeral = [c["name"] for c in spec.get("ephemeralContainers") or ()]
    known = [*initial, *mains, *ephemeral]
    if wanted in known:
        return wanted
    if wanted:
        raise bad_request(f"container {wanted} is not valid for pod {name}")
    text = f"a container name must be specified for pod {name}"
    raise bad_request(f"{text}, choose one of: [{' '.join(known)}]" if mains else text)
