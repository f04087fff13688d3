"""Security contexts of pods and containers, and what each operating system knows of them."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from kubarium.api import formats
from kubarium.api.paths import Path, at
from kubarium.api.resource import Document
from kubarium.api.validation.projections import check_relative_path
from kubarium.api.validation.report import Report

ID_MAX = 2**31 - 1
_PROFILES = ("Localhost", "RuntimeDefault", "Unconfined")
APPARMOR_PROFILE_MAX = 4095  # bytes: the longest path
CREDENTIAL_SPEC_MAX_KIB = 64
WINDOWS_DOMAIN_MAX = 256
WINDOWS_USER_MAX = 104
_NETBIOS = re.compile(r'[^\\/:*?"<>|.][^\\/:*?"<>|]{0,14}')
_DNS_LABEL = r"[a-zA-Z0-9](?:[a-zA-Z0-9-]{0,61}[a-zA-Z0-9])?"
_DNS_DOMAIN = re.compile(rf"{_DNS_LABEL}(?:\.{_DNS_LABEL})*")
_NOT_IN_USER = frozenset('"/\\:;|=,+*?<>@[]')
SYSCTL_MAX = 253
_SYSCTL_PART = r"[a-z0-9]([-_a-z0-9]*[a-z0-9])?"
_SYSCTL = rf"^({_SYSCTL_PART}[\./])*{_SYSCTL_PART}$"
_is_sysctl = re.compile(_SYSCTL[1:-1]).fullmatch
# Namespaces of the kernel that sysctls belong to, by how their names begin.
_NETWORK_SYSCTLS = ("net.",)
_IPC_SYSCTLS = ("kernel.shm", "kernel.msg", "fs.mqueue.")
_SEMAPHORES = "kernel.sem"
_CONTAINERS = ("initContainers", "containers", "ephemeralContainers")
_HOST_PROCESS = (
    "If pod contains any hostProcess containers then all containers must be HostProcess containers"
)


def containers_of(spec: Document, path: Path) -> Iterator[tuple[Document, Path]]:
    """All containers of a pod with their places, in the order of their start."""
    for field in _CONTAINERS:
        for index, container in enumerate(spec.get(field) or ()):
            yield container, at(path, field, index)


def _check_ids(context: Document, fields: tuple[str, ...], path: Path, report: Report) -> None:
    for field in fields:
        if context.get(field) is not None:
            report.between(at(path, field), context[field], 0, ID_MAX)


def check_container_security(
    context: Document, path: Path, report: Report, *, host_users: bool
) -> None:
    """``securityContext`` of a container; ``host_users`` says that it shares the host's users."""
    _check_ids(context, ("runAsUser", "runAsGroup"), path, report)
    if host_users and context.get("procMount") == "Unmasked":
        detail = "`hostUsers` must be false to use `Unmasked`"
        report.invalid(at(path, "procMount"), "Unmasked", detail)
    _check_seccomp(context.get("seccompProfile"), at(path, "seccompProfile"), report)
    if context.get("allowPrivilegeEscalation") is False:
        what = "cannot set `allowPrivilegeEscalation` to false and"
        if context.get("privileged"):
            report.invalid(path, context, f"{what} `privileged` to true")
        if "CAP_SYS_ADMIN" in ((context.get("capabilities") or {}).get("add") or ()):
            report.invalid(path, context, f"{what} `capabilities.Add` CAP_SYS_ADMIN")
    _check_windows_options(context.get("windowsOptions"), at(path, "windowsOptions"), report)
    _check_apparmor(context.get("appArmorProfile"), at(path, "appArmorProfile"), report)


def check_pod_security(spec: Document, path: Path, report: Report) -> None:
    """``securityContext`` of a pod, with what its spec says about namespaces of the host."""
    context = spec.get("securityContext") or {}
    place = at(path, "securityContext")
    if context:
        _check_ids(context, ("fsGroup", "runAsUser", "runAsGroup"), place, report)
        for index, group in enumerate(context.get("supplementalGroups") or ()):
            report.between(at(place, "supplementalGroups", index), group, 0, ID_MAX)
        _check_sysctls(context.get("sysctls") or (), spec, at(place, "sysctls"), report)
        _check_seccomp(context.get("seccompProfile"), at(place, "seccompProfile"), report)
        _check_windows_options(context.get("windowsOptions"), at(place, "windowsOptions"), report)
        _check_apparmor(context.get("appArmorProfile"), at(place, "appArmorProfile"), report)
    if spec.get("shareProcessNamespace") and spec.get("hostPID"):
        detail = "ShareProcessNamespace and HostPID cannot both be enabled"
        report.invalid(at(place, "shareProcessNamespace"), True, detail)
    _check_host_process(spec, path, report)
    if spec.get("hostUsers") is False:
        _check_own_users(spec, path, report)


def _check_own_users(spec: Document, path: Path, report: Report) -> None:
    """Pods with users of their own keep to namespaces of their own."""
    detail = "when `hostUsers` is false"
    if spec.get("hostNetwork"):
        report.forbidden(at(path, "hostNetwork"), detail)
    for field, shown in (("hostPID", "HostPID"), ("hostIPC", "HostIPC")):
        if spec.get(field):
            report.forbidden(at(path, shown), detail)
    for container, place in containers_of(spec, path):
        if container.get("volumeDevices"):
            report.forbidden(at(place, "volumeDevices"), detail)


def _check_sysctls(sysctls: Any, spec: Document, path: Path, report: Report) -> None:
    seen: set[Any] = set()
    for index, entry in enumerate(sysctls):
        name, place = entry.get("name") or "", at(path, index, "name")
        if not name:
            report.required(place)
        elif len(name) > SYSCTL_MAX or _is_sysctl(name) is None:
            detail = f"must have at most {SYSCTL_MAX} characters and match regex {_SYSCTL}"
            report.invalid(place, name, detail)
        elif name in seen:
            report.duplicate(place, name)
        seen.add(name)
        dotted = name.replace("/", ".")
        if spec.get("hostNetwork") and dotted.startswith(_NETWORK_SYSCTLS):
            report.invalid(place, name, "may not be specified when 'hostNetwork' is true")
        elif spec.get("hostIPC") and (dotted == _SEMAPHORES or dotted.startswith(_IPC_SYSCTLS)):
            report.invalid(place, name, "may not be specified when 'hostIPC' is true")


def _check_profile_type(kind: str, name: str, path: Path, report: Report) -> None:
    if not kind:
        report.required(at(path, "type"), f"type is required when {name} is set")
    elif kind not in _PROFILES:
        report.not_supported(at(path, "type"), kind, _PROFILES)


def _check_seccomp(profile: Document | None, path: Path, report: Report) -> None:
    if profile is None:
        return
    kind, file = profile.get("type") or "", profile.get("localhostProfile")
    _check_profile_type(kind, "seccompProfile", path, report)
    place = at(path, "localhostProfile")
    if kind != "Localhost":
        if file is not None:
            report.invalid(place, profile, "can only be set when seccomp type is Localhost")
    elif file is None:
        report.required(place, "must be set when seccomp type is Localhost")
    else:
        check_relative_path(file, place, report)


def _check_apparmor(profile: Document | None, path: Path, report: Report) -> None:
    if profile is None:
        return
    kind, name = profile.get("type") or "", profile.get("localhostProfile")
    _check_profile_type(kind, "appArmorProfile", path, report)
    place = at(path, "localhostProfile")
    if kind != "Localhost":
        if name is not None and kind in _PROFILES:
            report.invalid(place, name, "can only be set when AppArmor type is Localhost")
        return
    if name is not None and name != name.strip():
        report.invalid(place, name, "must not be padded with whitespace")
    elif not name:
        report.required(place, "must be set when AppArmor type is Localhost")
    if name and len(name) > APPARMOR_PROFILE_MAX:
        report.too_long(place, APPARMOR_PROFILE_MAX)


# --- Linux and Windows ---------------------------------------------------------------------------


def _check_windows_options(options: Document | None, path: Path, report: Report) -> None:
    if options is None:
        return
    name = options.get("gmsaCredentialSpecName")
    if name is not None:
        report.format(at(path, "gmsaCredentialSpecName"), name, formats.dns_subdomain)
    spec = options.get("gmsaCredentialSpec")
    place = at(path, "gmsaCredentialSpec")
    if spec == "":
        report.invalid(place, spec, "gmsaCredentialSpec cannot be an empty string")
    elif spec is not None and len(spec) > CREDENTIAL_SPEC_MAX_KIB * 1024:
        detail = f"gmsaCredentialSpec size must be under {CREDENTIAL_SPEC_MAX_KIB} KiB"
        report.invalid(place, spec, detail)
    user = options.get("runAsUserName")
    if user is not None:
        for complaint in _windows_user_complaints(user):
            report.invalid(at(path, "runAsUserName"), user, f"runAsUserName{complaint}")


def _windows_user_complaints(text: str) -> Iterator[str]:
    """``user`` or ``domain\\user``."""
    domain, backslash, user = text.rpartition("\\")
    if not text:
        yield " cannot be an empty string"
        return
    if any(char < " " or char == "\x7f" for char in text):
        yield " cannot contain control characters"
        return
    if "\\" in domain:
        yield " cannot contain more than one backslash"
        return
    if len(domain) >= WINDOWS_DOMAIN_MAX:
        yield f"'s Domain length must be under {WINDOWS_DOMAIN_MAX} characters"
    if backslash and not (_NETBIOS.fullmatch(domain) or _DNS_DOMAIN.fullmatch(domain)):
        yield "'s Domain doesn't match the NetBios nor the DNS format"
    if not user:
        yield "'s User cannot be empty"
        return
    if len(user) > WINDOWS_USER_MAX:
        yield f"'s User length must not be longer than {WINDOWS_USER_MAX} characters"
    if not user.strip(". "):
        yield "'s User cannot contain only periods or spaces"
    if _NOT_IN_USER & set(user):
        yield "'s User cannot contain the following characters: \"/\\:;|=,+*?<>@[]"


def _host_process(holder: Document) -> bool | None:
    options = (holder.get("securityContext") or {}).get("windowsOptions") or {}
    value: bool | None = options.get("hostProcess")
    return value


def _check_host_process(spec: Document, path: Path, report: Report) -> None:
    """Windows containers in the host's own processes: all of a pod or none, on its network."""
    whole = _host_process(spec)
    answers = []
    for container, place in containers_of(spec, path):
        own = _host_process(container)
        if whole is not None and own is not None and whole is not own:
            shown = str(whole).lower()
            detail = f"pod hostProcess value must be identical if both are specified, was {shown}"
            spot = at(place, "securityContext", "windowsOptions", "hostProcess")
            report.invalid(spot, own, detail)
        answers.append(bool(whole if own is None else own))
    if not any(answers):
        return
    if not all(answers):
        report.invalid(path, "", _HOST_PROCESS)
    if not spec.get("hostNetwork"):
        detail = "hostNetwork must be true if pod contains any hostProcess containers"
        report.invalid(at(path, "hostNetwork"), False, detail)


_NOT_ON_WINDOWS_POD = (
    "appArmorProfile",
    "seLinuxOptions",
    "seccompProfile",
    "fsGroup",
    "fsGroupChangePolicy",
    "sysctls",
    "runAsUser",
    "runAsGroup",
    "supplementalGroups",
    "supplementalGroupsPolicy",
    "seLinuxChangePolicy",
)
_NOT_ON_WINDOWS_SPEC = ("hostUsers", "shareProcessNamespace")
_NOT_ON_WINDOWS_HOST = ("hostPID", "hostIPC")
_NOT_ON_WINDOWS = (
    "appArmorProfile",
    "seLinuxOptions",
    "seccompProfile",
    "capabilities",
    "readOnlyRootFilesystem",
    "privileged",
    "allowPrivilegeEscalation",
    "procMount",
    "runAsUser",
    "runAsGroup",
)
SYSTEMS = ("linux", "windows")


def check_system(spec: Document, path: Path, report: Report) -> None:
    """``os``: a system that is known, and nothing that it does not know."""
    system = spec.get("os")
    if system is None:
        return
    name = system.get("name") or ""
    if not name:
        report.required(at(path, "os", "name"))
    elif name not in SYSTEMS:
        report.not_supported(at(path, "os"), name, SYSTEMS)
    elif name == "linux":
        for holder, place in ((spec, path), *containers_of(spec, path)):
            if (holder.get("securityContext") or {}).get("windowsOptions") is not None:
                spot = at(place, "securityContext", "windowsOptions")
                report.forbidden(spot, "windows options cannot be set for a linux pod")
    else:
        _check_windows(spec, path, report)


def _check_windows(spec: Document, path: Path, report: Report) -> None:
    detail = "cannot be set for a windows pod"
    for field in _NOT_ON_WINDOWS_SPEC:
        if spec.get(field) is not None:
            report.forbidden(at(path, field), detail)
    for field in _NOT_ON_WINDOWS_HOST:
        if spec.get(field):
            report.forbidden(at(path, field), detail)
    context = spec.get("securityContext") or {}
    for field in _NOT_ON_WINDOWS_POD:
        if context.get(field) is not None and not (field == "sysctls" and not context[field]):
            report.forbidden(at(path, "securityContext", field), detail)
    for container, place in containers_of(spec, path):
        own = container.get("securityContext") or {}
        for field in _NOT_ON_WINDOWS:
            if own.get(field) is not None:
                report.forbidden(at(place, "securityContext", field), detail)
