"""Preparing claims: from allocation results to what a container gets, as a kubelet plugin does.

Idempotent: preparing a claim again gives the same answer. CDI edits are environment variables here.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Protocol, runtime_checkable

from kubarium.api.device_configs import ConfigRefused
from kubarium.api.kinds import RESOURCE_CLAIMS
from kubarium.api.resource import Document
from kubarium.base.errors import ApiError, KubariumError
from kubarium.client.protocol import Reader
from kubarium.node.config import DeviceConfig
from kubarium.node.drivers import smi
from kubarium.node.drivers.containers import (
    decode_all,
    device_environment,
    identity_of,
    pinned,
    pinned_memory,
    profile_of,
    sharing_notes,
    takes,
    visible,
)
from kubarium.node.drivers.domains import DomainProblem, confirm_ready
from kubarium.node.drivers.profiles import COMPUTE_DOMAIN, NVIDIA, NVML
from kubarium.view.consumers import is_reserved_for, not_made_for


class ClaimProblem(KubariumError):
    """A claim cannot be used by this pod now; the message is kubelet's."""


@runtime_checkable
class Hardware(Protocol):
    """Devices of this machine that one node hands out, under a driver's name."""

    def identity(self, device: str) -> str:
        """What CUDA calls a device (its uuid); KeyError if it is not there any more."""

    def device_nodes(self, device: str) -> tuple[str, ...]:
        """The files under /dev that a container with the device needs."""


@dataclass(frozen=True, slots=True)
class Edits:
    """What a container gets for its devices.

    ``nodes``: the accelerators' files under /dev that it sees; None is all that the machine has.
    ``notes``: what of its configuration cannot be honoured. ``programs``: text by path, for
    containers with files of their own.
    """

    env: Mapping[str, str] = field(default_factory=dict)
    nodes: tuple[str, ...] | None = None
    notes: tuple[str, ...] = ()
    programs: Mapping[str, str] = field(default_factory=dict)


# A container without a claim on a node whose GPUs are handed out: none.
NO_GPUS = Edits({"NVIDIA_VISIBLE_DEVICES": "void", "CUDA_VISIBLE_DEVICES": ""}, ())
# The key of what containers get that are not named.
ANY_OTHER = ""


@dataclass(frozen=True, slots=True)
class PreparedDevice:
    """One device of a claim and what containers with it see."""

    request: str
    profile: str
    driver: str
    pool: str
    device: str
    env: Mapping[str, str]
    claim: str = ""
    identity: str = ""
    nodes: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    consumed: Mapping[str, Any] = field(default_factory=dict)  # of a shared device's capacity
    pinned_mib: int | None = None  # the limit of an MPS daemon's clients

    @property
    def uuid(self) -> str:
        """What its configuration may call it: simulated GPUs go by their names."""
        return self.identity if self.profile == NVML else self.device

    def serves(self, request: str) -> bool:
        """Whether it was given for this request ("" is any), or an alternative of it."""
        return not request or request in (self.request, self.request.partition("/")[0])


@dataclass(frozen=True, slots=True)
class Held:
    """A device that a container holds, under the container's name for the claim."""

    name: str
    device: PreparedDevice


# Finds a claim by (namespace, name).
ClaimReader = Callable[[str, str], Document | None]


def claim_names(pod: Document) -> dict[str, str | None]:
    """Claim object names by the pod's own names for them; None = no claim is needed."""
    statuses = {
        entry["name"]: entry.get("resourceClaimName")
        for entry in (pod.get("status") or {}).get("resourceClaimStatuses") or ()
    }
    names: dict[str, str | None] = {}
    for entry in pod["spec"].get("resourceClaims") or ():
        name = entry["name"]
        if entry.get("resourceClaimName"):
            names[name] = entry["resourceClaimName"]
        elif name in statuses:
            names[name] = statuses[name]
        else:
            template = entry.get("resourceClaimTemplateName", "")
            raise ClaimProblem(
                f'pod claim {name}: ResourceClaim not created yet from template "{template}"'
            )
    return names


def has_claims(pod: Document) -> bool:
    """Whether anything is to be prepared for the pod."""
    return bool(pod["spec"].get("resourceClaims")) or bool(extended_claim(pod))


async def fetch_claims(client: Reader, pod: Document) -> dict[str, Document]:
    """The pod's claims as they are now, by name: a watch may lag behind the scheduler's write."""
    namespace = pod["metadata"].get("namespace", "")
    found: dict[str, Document] = {}
    for name in (*claim_names(pod).values(), extended_claim(pod)):
        if not name:
            continue
        try:
            found[name] = await client.get(RESOURCE_CLAIMS, name, namespace)
        except ApiError as error:
            if error.reason != "NotFound":
                raise ClaimProblem(f"fetch ResourceClaim {name}: {error}") from error
    for claim in found.values():
        try:
            await confirm_ready(client, claim, pod["spec"].get("nodeName", ""))
        except (ApiError, DomainProblem) as problem:
            raise _prepare_failed(claim, COMPUTE_DOMAIN, problem) from problem
    return found


def extended_claim(pod: Document) -> str:
    """The claim that the scheduler made for the pod's extended resources; "" if there is none."""
    status = (pod.get("status") or {}).get("extendedResourceClaimStatus") or {}
    return str(status.get("resourceClaimName") or "")


def prepare_pod(
    pod: Document, read: ClaimReader, drivers: Mapping[str, object]
) -> dict[str, dict[str, str]]:
    """Environment by container. ClaimProblem if a claim is missing, not allocated, or not reserved
    for this pod, or if a device's driver is not on this node."""
    return {name: _environment(held) for name, held in devices_held(pod, read, drivers).items()}


def container_edits(
    pod: Document, read: ClaimReader, drivers: Mapping[str, object]
) -> dict[str, Edits]:
    """What each container gets, and under ANY_OTHER what one does that is not named; ClaimProblem
    as :func:`prepare_pod`. Where a node hands out this machine's GPUs, nobody sees another's: the
    number of a simulated GPU would be one of the machine's, so it is not told."""
    guarded = guards_gpus(drivers, pod["spec"].get("nodeName", ""))
    found: dict[str, Edits] = {ANY_OTHER: NO_GPUS} if guarded else {}
    for name, held in devices_held(pod, read, drivers).items():
        env = _environment([h for h in held if not guarded or h.device.profile != NVIDIA])
        files = tuple(dict.fromkeys(node for item in held for node in item.device.nodes))
        notes = tuple(dict.fromkeys(note for item in held for note in item.device.notes))
        if guarded:
            env = {**NO_GPUS.env, **env}
        programs = {} if guarded else _programs(held, drivers)
        found[name] = Edits(env, files if guarded else None, notes, programs)
    return found


def _programs(held: list[Held], drivers: Mapping[str, object]) -> dict[str, str]:
    """nvidia-smi for simulated GPUs of one driver; a container with two drivers' sees the first."""
    mine = [item.device for item in held if item.device.profile == NVIDIA]
    if not mine:
        return {}
    driver, pool = mine[0].driver, mine[0].pool
    known = drivers.get(driver_key(driver, pool), drivers.get(driver))
    if not isinstance(known, DeviceConfig):
        return {}
    names = [d.device for d in mine if (d.driver, d.pool) == (driver, pool)]
    return {smi.PATH: smi.program(known, driver, pool, names)}


def guards_gpus(drivers: Mapping[str, object], node: str) -> bool:
    """Whether GPUs of this machine are devices of the node."""
    return any(
        isinstance(known, Hardware) and key.endswith(f"/{node}") for key, known in drivers.items()
    )


def driver_key(driver: str, pool: str) -> str:
    """Where a driver's configuration for one node is found."""
    return f"{driver}/{pool}"


def devices_held(
    pod: Document, read: ClaimReader, drivers: Mapping[str, object]
) -> dict[str, list[Held]]:
    """The devices of each container; ClaimProblem as :func:`prepare_pod`."""
    prepared: dict[str, list[PreparedDevice]] = {}
    for own_name, name in claim_names(pod).items():
        if name is not None:
            prepared[own_name] = _prepared(pod, name, read, drivers)
    extended = extended_claim(pod)
    by_request = _prepared(pod, extended, read, drivers) if extended else []
    spec = pod["spec"]
    entries = [*(spec.get("initContainers") or ()), *(spec.get("containers") or ())]
    return {
        entry["name"]: [
            *_of_claims(entry, prepared),
            *_of_extended(pod, entry["name"], by_request),
        ]
        for entry in entries
    }


def _prepared(
    pod: Document, name: str, read: ClaimReader, drivers: Mapping[str, object]
) -> list[PreparedDevice]:
    namespace = pod["metadata"].get("namespace", "")
    claim = read(namespace, name)
    if claim is None:
        raise ClaimProblem(
            f'fetch ResourceClaim {name}: resourceclaims.resource.k8s.io "{name}" not found'
        )
    _check(pod, claim)
    return prepare_claim(claim, drivers)


def _of_claims(
    container: Mapping[str, Any], prepared: Mapping[str, list[PreparedDevice]]
) -> list[Held]:
    """The union over the claims (and requests of them) that the container names."""
    found: list[Held] = []
    for entry in (container.get("resources") or {}).get("claims") or ():
        wanted = entry.get("request") or ""
        name = f"claim:{entry['name']}" + (f"/{wanted}" if wanted else "")
        found += [Held(name, d) for d in prepared.get(entry["name"], ()) if d.serves(wanted)]
    return found


def _of_extended(pod: Document, container: str, devices: list[PreparedDevice]) -> list[Held]:
    status = (pod.get("status") or {}).get("extendedResourceClaimStatus") or {}
    return [
        Held(mapping["resourceName"], device)
        for mapping in status.get("requestMappings") or ()
        if mapping["containerName"] == container
        for device in devices
        if device.serves(mapping["requestName"])
    ]


def _environment(held: list[Held]) -> dict[str, str]:
    env: dict[str, str] = {}
    for item in held:
        env |= item.device.env
    identities = [h.device.identity for h in held if h.device.identity]
    limits = {
        h.device.identity: h.device.pinned_mib for h in held if h.device.pinned_mib is not None
    }
    return env | visible(identities) | pinned(identities, limits)


def _check(pod: Document, claim: Document) -> None:
    metadata, pod_metadata = claim["metadata"], pod["metadata"]
    status = claim.get("status") or {}
    if not status.get("allocation"):
        raise ClaimProblem(f"ResourceClaim {metadata['name']}: not allocated")
    why = not_made_for(claim, pod)
    if why:
        raise ClaimProblem(why)
    if not is_reserved_for(claim, pod):
        raise ClaimProblem(
            f"pod {pod_metadata['name']} ({pod_metadata['uid']}) is not allowed to use "
            f"ResourceClaim {metadata['name']} ({metadata['uid']})"
        )


def prepare_claim(claim: Document, drivers: Mapping[str, object]) -> list[PreparedDevice]:
    """The devices of an allocated claim; ClaimProblem for a driver that is not on this node.

    A driver all of whose devices in the claim skip preparation is not asked, and need not be here
    (KEP-5945).
    """
    allocation = claim["status"]["allocation"]["devices"]
    results = allocation.get("results") or ()
    admin = any(result.get("adminAccess") for result in results)
    skipped = drivers_skipped(results, "NodePrepareResources")
    found: list[PreparedDevice] = []
    entries: list[Mapping[str, Any]] = []
    asked: set[str] = set()
    for result in results:
        driver, device = result["driver"], result["device"]
        if driver in skipped:
            continue
        key = driver_key(driver, result["pool"])
        if key not in drivers and driver not in drivers:
            raise ClaimProblem(f"DRA driver {driver} is not registered")
        known = drivers.get(key, drivers.get(driver))
        hardware = known if isinstance(known, Hardware) else None
        profile = NVML if hardware is not None else profile_of(driver, known)
        configs = [c for c in allocation.get("config") or () if _driver(c) == driver]
        try:
            if driver not in asked:
                decode_all(profile, map(_parameters, _ranked(configs)))
                asked.add(driver)
            entry = _entry(configs, result, profile)
            config = _parameters(entry)
            env = device_environment(profile, result, config, admin, claim["metadata"]["uid"])
            identity, nodes = _identity(profile, device, hardware)
        except ConfigRefused as problem:
            raise _prepare_failed(claim, profile, problem) from problem
        found.append(
            PreparedDevice(
                result["request"],
                profile,
                driver,
                result["pool"],
                result["device"],
                env,
                claim["metadata"]["name"],
                identity,
                nodes,
                sharing_notes(config) if hardware is not None else (),
                result.get("consumedCapacity") or {},
            )
        )
        entries.append(entry)
    try:
        return _with_limits(found, entries)
    except ConfigRefused as problem:
        raise _prepare_failed(claim, found[0].profile, problem) from problem


def _with_limits(
    devices: list[PreparedDevice], entries: list[Mapping[str, Any]]
) -> list[PreparedDevice]:
    """The devices with the limits that their configurations set, each for all of its devices."""
    if not any(entries):
        return devices
    found = []
    for device, entry in zip(devices, entries, strict=True):
        alike = [d.uuid for d, e in zip(devices, entries, strict=True) if e is entry]
        limits = pinned_memory(device.profile, _parameters(entry), alike) if entry else {}
        limit = limits.get(device.uuid)
        found.append(device if limit is None else replace(device, pinned_mib=limit))
    return found


def drivers_skipped(results: Iterable[Mapping[str, Any]], operation: str) -> set[str]:
    """Drivers all of whose devices in a claim skip the operation; unknown words are ignored."""
    asked: set[str] = set()
    seen: set[str] = set()
    for result in results:
        seen.add(result["driver"])
        if not {operation, "*"} & set(result.get("skipNodeOperations") or ()):
            asked.add(result["driver"])
    return seen - asked


def _identity(profile: str, device: str, hardware: Hardware | None) -> tuple[str, tuple[str, ...]]:
    """What CUDA calls a device, "" for what is no GPU of NVIDIA's, and its files."""
    if hardware is None:
        return (identity_of(device) if profile == NVIDIA else ""), ()
    try:
        return hardware.identity(device), hardware.device_nodes(device)
    except KeyError:
        raise ConfigRefused(f"{device} is not on this machine any more") from None


def _prepare_failed(claim: Document, profile: str, problem: Exception) -> ClaimProblem:
    """In the words of the kubelet and of the drivers themselves: NVIDIA's and the example one."""
    metadata = claim["metadata"]
    name, uid = metadata["name"], metadata.get("uid", "")
    if profile in (NVIDIA, NVML, COMPUTE_DOMAIN):
        said = f"{metadata.get('namespace', '')}/{name}:{uid}: prepare devices failed: {problem}"
    else:
        said = f"{uid}: prepare failed: {problem}"
    return ClaimProblem(
        f"NodePrepareResources failed for ResourceClaim {name}: "
        f"error preparing devices for claim {said}"
    )


def _entry(
    entries: Sequence[Mapping[str, Any]], result: Mapping[str, Any], profile: str
) -> Mapping[str, Any]:
    """The configuration for an allocated device among those for its driver, {} if there is none.
    ConfigRefused if it is for devices of another sort."""
    for entry in _ranked(entries)[::-1]:
        wanted = entry.get("requests") or []
        if wanted and not _asks(wanted, result["request"]):
            continue
        if takes(profile, result, _parameters(entry), bool(wanted)):
            return entry
    return {}


def _ranked(entries: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """The claim's before the class's, and the last one wins: that stands at the end."""
    sources = ("FromClass", "FromClaim")
    return [known for source in sources for known in entries if known.get("source") == source]


def _driver(entry: Mapping[str, Any]) -> str:
    """Whom a configuration is for."""
    return str((entry.get("opaque") or {}).get("driver", ""))


def _parameters(entry: Mapping[str, Any]) -> Mapping[str, Any]:
    """The driver's own part of a configuration."""
    parameters: Mapping[str, Any] = (entry.get("opaque") or {}).get("parameters") or {}
    return parameters


def _asks(wanted: Iterable[str], request: str) -> bool:
    """A request's name means all its alternatives too."""
    return request in wanted or request.partition("/")[0] in wanted
