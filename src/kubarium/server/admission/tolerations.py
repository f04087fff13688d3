"""DefaultTolerationSeconds: pods bear five minutes of a node that is not ready or not reachable.

Source: upstream ``plugin/pkg/admission/defaulttolerationseconds/admission.go``.
"""

from __future__ import annotations

from kubarium.api.resource import Document
from kubarium.server.admission.chain import CREATE, Attempt

DEFAULT_TOLERATION_S = 300
_TAINTS = ("node.kubernetes.io/not-ready", "node.kubernetes.io/unreachable")

# Shared by all pods, which are read-only once stored.
_DEFAULTS: dict[str, Document] = {
    key: {
        "key": key,
        "operator": "Exists",
        "effect": "NoExecute",
        "tolerationSeconds": DEFAULT_TOLERATION_S,
    }
    for key in _TAINTS
}


def tolerate_briefly(attempt: Attempt) -> None:
    """Add the tolerations that the pod does not have in its own way.

    On updates too: who applies a pod with tolerations of its own does not mean to take these away.
    """
    spec = attempt.document.get("spec")
    if not isinstance(spec, dict):
        return
    tolerations: list[Document] = spec.get("tolerations") or []
    missing = [
        _DEFAULTS[key]
        for key in _TAINTS
        if not any(_covers(toleration, key) for toleration in tolerations)
    ]
    if missing and attempt.operation == CREATE:
        spec["tolerations"] = [*tolerations, *missing]
    elif missing:  # parts of an update may be those of the stored pod
        attempt.document["spec"] = spec | {"tolerations": [*tolerations, *missing]}


def _covers(toleration: Document, key: str) -> bool:
    return toleration.get("key") in (key, None, "") and toleration.get("effect") in (
        "NoExecute",
        None,
        "",
    )
