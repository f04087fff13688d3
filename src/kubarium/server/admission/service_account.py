"""ServiceAccount: every pod has an account, and a volume with a token for it.

Source: upstream ``plugin/pkg/admission/serviceaccount/admission.go``.
"""

from __future__ import annotations

import zlib
from functools import lru_cache

from kubarium.api.kinds import SERVICE_ACCOUNTS
from kubarium.api.resource import Document
from kubarium.base.chance import SUFFIX_ALPHABET
from kubarium.base.errors import forbidden
from kubarium.server.admission.chain import Attempt
from kubarium.server.metadata import stamp_new

DEFAULT_ACCOUNT = "default"
MOUNT_PATH = "/var/run/secrets/kubernetes.io/serviceaccount"
VOLUME_PREFIX = "kube-api-access-"
SUFFIX_LENGTH = 5
# One hour and a few seconds: kubelet renews a token that has 80 % of its life behind it.
TOKEN_EXPIRATION_S = 3607
ROOT_CA_CONFIG_MAP = "kube-root-ca.crt"

# The same in every pod; stored documents are read-only, so all of them may share it.
_PROJECTED: Document = {
    "sources": [
        {"serviceAccountToken": {"expirationSeconds": TOKEN_EXPIRATION_S, "path": "token"}},
        {
            "configMap": {
                "name": ROOT_CA_CONFIG_MAP,
                "items": [{"key": "ca.crt", "path": "ca.crt"}],
            }
        },
        {
            "downwardAPI": {
                "items": [
                    {
                        "path": "namespace",
                        "fieldRef": {"apiVersion": "v1", "fieldPath": "metadata.namespace"},
                    }
                ]
            }
        },
    ],
    "defaultMode": 420,
}


def give_service_account(attempt: Attempt) -> None:
    """Name the account of a new pod and mount its token; 403 if there is no such account."""
    pod = attempt.document
    spec = pod.get("spec")
    if not isinstance(spec, dict):
        return
    if "kubernetes.io/config.mirror" in (pod["metadata"].get("annotations") or {}):
        return
    name = spec.get("serviceAccountName") or DEFAULT_ACCOUNT
    account = _account(attempt, name)
    spec["serviceAccountName"] = spec["serviceAccount"] = name
    if _wants_token(spec, account):
        _mount_token(spec, account)
    if not spec.get("imagePullSecrets") and account.get("imagePullSecrets"):
        spec["imagePullSecrets"] = [dict(secret) for secret in account["imagePullSecrets"]]


def _account(attempt: Attempt, name: str) -> Document:
    registry, namespace = attempt.registry, attempt.namespace
    record = registry.store.get(f"/core/serviceaccounts/{namespace}/{name}")
    if record is not None:
        return record.value
    if name == DEFAULT_ACCOUNT:
        return _create_default(attempt)
    why = f'error looking up service account {namespace}/{name}: serviceaccount "{name}" not found'
    raise forbidden("pods", "", attempt.name, why)


def _create_default(attempt: Attempt) -> Document:
    """Do now what the ServiceAccount controller is about to do for a new namespace.

    Upstream instead lets the request wait and fails it after about a second.
    """
    registry = attempt.registry
    account: Document = {
        "apiVersion": "v1",
        "kind": "ServiceAccount",
        "metadata": {"name": DEFAULT_ACCOUNT, "namespace": attempt.namespace},
    }
    stamp_new(registry, account["metadata"], generation=False)
    kind = registry.catalog.of(SERVICE_ACCOUNTS)
    assert kind is not None
    return registry.commit(kind, account, None, attempt.call.dry_run)


def _wants_token(spec: Document, account: Document) -> bool:
    for owner in (spec, account):
        wanted = owner.get("automountServiceAccountToken")
        if wanted is not None:
            return bool(wanted)
    return True


def _mount_token(spec: Document, account: Document) -> None:
    """Add the projected volume and mount it in every container that has nothing at its path."""
    containers = [*(spec.get("initContainers") or ()), *(spec.get("containers") or ())]
    without = [c for c in containers if not _is_taken(c)]
    if not without:
        return
    volumes = spec.get("volumes") or []
    name = next((v["name"] for v in volumes if _is_token_volume(v)), "")
    if not name:
        name = VOLUME_PREFIX + _suffix(account)
        spec["volumes"] = [*volumes, {"name": name, "projected": _PROJECTED}]
    mount = {"name": name, "readOnly": True, "mountPath": MOUNT_PATH}
    for container in without:
        container["volumeMounts"] = [*(container.get("volumeMounts") or ()), mount]


@lru_cache(maxsize=1024)
def _letters(uid: str) -> str:
    number = zlib.crc32(uid.encode())
    letters = []
    for _ in range(SUFFIX_LENGTH):
        number, letter = divmod(number, len(SUFFIX_ALPHABET))
        letters.append(SUFFIX_ALPHABET[letter])
    return "".join(letters)


def _suffix(account: Document) -> str:
    """The same for all pods of an account, so that pods of one template have equal specs.

    Upstream draws it anew for each pod; it needs to be unique among the pod's own volumes only.
    """
    return _letters(account["metadata"].get("uid", ""))


def _is_taken(container: Document) -> bool:
    return any(
        mount.get("mountPath") == MOUNT_PATH for mount in container.get("volumeMounts") or ()
    )


def _is_token_volume(volume: Document) -> bool:
    return str(volume.get("name", "")).startswith(VOLUME_PREFIX) and "projected" in volume
