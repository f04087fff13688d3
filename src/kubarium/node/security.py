"""Who a container's process is: ``securityContext`` of pod and container put together."""

from __future__ import annotations

import os
import pwd
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from kubarium.api.resource import Document
from kubarium.node import sysctls
from kubarium.node.environment import ConfigProblem
from kubarium.node.isolation import PLAIN, ROOT, USER_NAMESPACE
from kubarium.node.oci.users import Accounts, ImageUser
from kubarium.node.runtimes.process import linux
from kubarium.node.runtimes.process.engine import User
from kubarium.node.runtimes.process.seccomp import runtime_default

RUNTIME_DEFAULT = "RuntimeDefault"
_LINUX = sys.platform == "linux"


@dataclass(frozen=True, slots=True)
class Identity:
    """The user to run as, and what of the request cannot be had here."""

    user: User | None
    uid: int
    privileged: bool = False
    read_only_root: bool = False
    no_new_privileges: bool = False
    # The filter of system calls; empty for none.
    seccomp: bytes = b""
    # By the image's own accounts; "" where the machine's are meant.
    home: str = ""
    shortfalls: list[str] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Known:
    """The accounts of a real image, and the one that its config names."""

    accounts: Accounts
    user: ImageUser


def identity_of(
    pod: Document,
    container: Mapping[str, Any],
    level: str,
    image_uid: int | None,
    label: str,
    known: Known | None = None,
) -> Identity:
    """ConfigProblem where ``runAsNonRoot`` forbids the user (source: ``security_context.go``);
    ``known`` of a real image."""
    shared = pod["spec"].get("securityContext") or {}
    own = container.get("securityContext") or {}
    merged = {**shared, **{key: value for key, value in own.items() if value is not None}}
    asked = merged.get("runAsUser")
    account = None
    if known is not None:
        account = known.user if asked is None else known.accounts.of_number(int(asked))
        image_uid = account.uid
    default = image_uid if image_uid is not None else 0 if level != PLAIN else os.geteuid()
    uid = default if asked is None else int(asked)
    _check_non_root(merged, asked, uid, label, container["name"], account)
    if account is None or merged.get("runAsGroup") is not None:
        gid = _group(merged, asked, uid, level)
    else:
        gid = account.gid
    groups = [int(g) for g in shared.get("supplementalGroups") or ()]
    if account is not None and shared.get("supplementalGroupsPolicy") != "Strict":
        groups += [group for group in account.groups if group not in groups]
    if shared.get("fsGroup") is not None:
        groups.append(int(shared["fsGroup"]))
    privileged = bool(own.get("privileged"))
    capabilities = _capabilities(own, privileged)
    confined = not privileged and _profile(merged) == RUNTIME_DEFAULT
    program = runtime_default(os.uname().machine, capabilities) if confined and _LINUX else b""
    # Without a user of higher rights a filter can only be had by giving up all new ones.
    forbidden = _LINUX and (
        own.get("allowPrivilegeEscalation") is False or (level == PLAIN and bool(program))
    )
    return Identity(
        _user(level, uid, gid, groups, capabilities),
        uid,
        privileged,
        bool(own.get("readOnlyRootFilesystem")),
        forbidden,
        program,
        account.home if account is not None else "",
        [
            *_shortfalls(level, merged, uid, groups),
            *_unknown_profiles(pod, merged, confined and not program),
            *_shared_namespaces(pod["spec"], level),
        ],
    )


def _profile(merged: Mapping[str, Any]) -> str:
    """The type of the seccomp profile asked for; Kubernetes' default is none at all."""
    return str((merged.get("seccompProfile") or {}).get("type") or "")


def _unknown_profiles(pod: Document, merged: Mapping[str, Any], unfiltered: bool) -> list[str]:
    """Profiles and settings that cannot be had at any level, in words."""
    found = []
    if _profile(merged) == "Localhost":
        name = merged["seccompProfile"].get("localhostProfile")
        found.append(f"seccomp profile {name} (only RuntimeDefault is known)")
    if unfiltered:
        found.append(f"seccomp RuntimeDefault on {os.uname().sysname} {os.uname().machine}")
    armor = merged.get("appArmorProfile") or {}
    if armor.get("type") == "Localhost":
        found.append(f"AppArmor profile {armor.get('localhostProfile')}")
    if merged.get("seLinuxOptions"):
        found.append("SELinux options")
    unheard = sysctls.not_applied(pod)
    if unheard:
        found.append(f"sysctls {', '.join(unheard)} (not one that each pod has for itself)")
    return found


def _shared_namespaces(spec: Mapping[str, Any], level: str) -> list[str]:
    """What the pod would share, or have apart, and cannot here, in words."""
    if level == PLAIN:  # all share the machine's
        return ["hostUsers: false"] if spec.get("hostUsers") is False else []
    found = [name for name in ("hostPID", "hostIPC") if spec.get(name)]
    several = sum(len(spec.get(part) or ()) for part in ("initContainers", "containers")) > 1
    if spec.get("shareProcessNamespace") and several:
        found.append("shareProcessNamespace (each container has its own processes)")
    if spec.get("hostUsers") is False and level == ROOT:
        found.append("hostUsers: false (users are the machine's)")
    return found


def _check_non_root(
    merged: Mapping[str, Any],
    asked: int | None,
    uid: int,
    label: str,
    name: str,
    account: ImageUser | None,
) -> None:
    if not merged.get("runAsNonRoot"):
        return
    where = f'(pod: "{label}", container: {name})'
    if asked is None and account is not None and account.named:
        raise ConfigProblem(
            f"container has runAsNonRoot and image has non-numeric user ({account.named}), cannot "
            f"verify user is non-root {where}"
        )
    if uid != 0:
        return
    if asked is not None:
        raise ConfigProblem(f"container's runAsUser breaks non-root policy {where}")
    raise ConfigProblem(f"container has runAsNonRoot and image will run as root {where}")


def _group(merged: Mapping[str, Any], asked: int | None, uid: int, level: str) -> int:
    if merged.get("runAsGroup") is not None:
        return int(merged["runAsGroup"])
    if level == PLAIN:
        return os.getegid()
    if asked is None:
        return 0
    try:
        return pwd.getpwuid(uid).pw_gid
    except KeyError:
        return 0


def _user(
    level: str, uid: int, gid: int, groups: list[int], capabilities: list[str]
) -> User | None:
    if level == ROOT:
        return User(uid, gid, groups, capabilities)
    if level == USER_NAMESPACE and (uid or gid):
        return User(uid, gid, [], [], map=True)
    return None


def _capabilities(own: Mapping[str, Any], privileged: bool) -> list[str]:
    if privileged:
        return list(linux.CAPABILITIES)
    asked = own.get("capabilities") or {}
    added = _names(asked.get("add"))
    dropped = _names(asked.get("drop"))
    start = [] if "ALL" in dropped else linux.DEFAULT_CAPABILITIES
    if "ALL" in added:
        start, added = list(linux.CAPABILITIES), []
    kept = [name for name in (*start, *added) if name not in dropped]
    return [name for name in dict.fromkeys(kept) if name in linux.CAPABILITIES]


def _names(entries: list[str] | None) -> list[str]:
    return [entry.upper().removeprefix("CAP_") for entry in entries or ()]


def _shortfalls(level: str, merged: Mapping[str, Any], uid: int, groups: list[int]) -> list[str]:
    """Requests that this level cannot honour, in words; empty as root."""
    if level == ROOT:
        return []
    found = []
    if level == PLAIN and uid != os.geteuid():
        found.append(f"runAsUser {uid} (the process runs as user {os.geteuid()})")
    if groups:
        found.append(f"supplementary groups {sorted(groups)}")
    if level == PLAIN and merged.get("readOnlyRootFilesystem"):
        found.append("readOnlyRootFilesystem")
    if level == PLAIN and (merged.get("capabilities") or {}).get("add"):
        found.append(f"capabilities {merged['capabilities']['add']}")
    if not _LINUX and merged.get("allowPrivilegeEscalation") is False:
        found.append("allowPrivilegeEscalation: false")
    return found


def home_of(uid: int) -> str:
    """The home directory that HOME names."""
    try:
        return pwd.getpwuid(uid).pw_dir
    except KeyError:
        return "/"
