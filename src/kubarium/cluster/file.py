"""The cluster file: node pools, devices, topology and runtimes, with errors that point at the line.

Two dialects are read: our own ``kubarium.dev/v1alpha1 Cluster`` (schema.json beside this file) and
kind's ``kind.x-k8s.io/v1alpha4 Cluster`` (roles and labels of nodes; what concerns containers of a
node, such as images and port mappings, has no meaning here and is listed in ``ignored``).
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from importlib import resources
from pathlib import Path
from typing import Any

import orjson
import yaml

from kubarium.api.manifests import decode_yaml
from kubarium.base.errors import ApiError, ConfigError
from kubarium.base.quoted import quoted
from kubarium.cluster.device_health import read_events, read_failures, read_trace
from kubarium.cluster.devices import check_options, device_configs
from kubarium.cluster.names import refused
from kubarium.node.config import DeviceConfig, HealthEvent
from kubarium.node.drivers.profiles import NVML, driver_of
from kubarium.node.images import builtin_images
from kubarium.node.kubelet_config import FieldError, read_kubelet_config
from kubarium.view.scheduling import SchedulerConfig, SchedulerConfigError, read_config

DEFAULT_CAPACITY = {"cpu": "8", "memory": "16Gi", "ephemeral-storage": "50Gi", "pods": "110"}
CONTROL_PLANE_LABEL = "node-role.kubernetes.io/control-plane"

OWN_VERSION, KIND_VERSION = "kubarium.dev/v1alpha1", "kind.x-k8s.io/v1alpha4"

# Of a complaint about one field.
MOST_CHARACTERS = 500

Lines = dict[tuple[str | int, ...], int]


@dataclass(frozen=True, slots=True)
class NodePool:
    """``count`` nodes that are alike but for the topology values dealt to them in turn."""

    name: str
    count: int = 1
    runtime: str = "process"
    capacity: dict[str, str] = field(default_factory=lambda: dict(DEFAULT_CAPACITY))
    labels: dict[str, str] = field(default_factory=dict)
    topology: dict[str, list[str]] = field(default_factory=dict)
    taints: list[dict[str, str]] = field(default_factory=list)
    devices: list[dict[str, Any]] = field(default_factory=list)
    # Fields of a KubeletConfiguration (see node.kubelet_config).
    kubelet: dict[str, Any] = field(default_factory=dict)
    exact_name: bool = False

    def node_names(self) -> Iterator[str]:
        """``worker-0 … worker-N``; a pool read from kind names its single node itself."""
        if self.exact_name:
            yield self.name
        else:
            yield from (f"{self.name}-{index}" for index in range(self.count))

    def labels_of(self, index: int) -> dict[str, str]:
        """The labels of the pool's node number ``index``, which ``{index}`` in a value becomes."""
        own = {key: text.replace("{index}", str(index)) for key, text in self.labels.items()}
        dealt = {key: values[index % len(values)] for key, values in self.topology.items()}
        return own | dealt


@dataclass(frozen=True, slots=True)
class ClusterFile:
    """A validated cluster description."""

    pools: list[NodePool]
    name: str = ""
    images: dict[str, Any] = field(default_factory=dict)
    ignored: list[str] = field(default_factory=list)
    scheduler: SchedulerConfig = field(default_factory=SchedulerConfig)
    health_events: tuple[HealthEvent, ...] = ()


def default_cluster(nodes: int, runtime: str = "process") -> ClusterFile:
    """What ``kubarium up`` brings up when no file is given."""
    zones = {"topology.kubernetes.io/zone": ["zone-a", "zone-b", "zone-c"]}
    return ClusterFile([NodePool("node", nodes, runtime, topology=zones)])


def read_cluster_file(path: Path) -> ClusterFile:
    """Read and check a cluster file. ConfigError names file, line, field, value and the way out."""
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: cannot be read: {error}") from None
    document, lines = _compose(path, text)
    if not isinstance(document, dict):
        raise ConfigError(f"{path}:1: a cluster file is a YAML mapping; this is not one")
    if _dialect(path, document, lines) == KIND_VERSION:
        return _from_kind(path, document, lines)
    _check_schema(path, document, lines)
    _check_attributes(path, document, lines)
    _check_names(path, document, lines)
    _check_kubelets(path, document, lines)
    _check_images(path, document, lines)
    file = replace(_from_document(path, document), scheduler=_scheduler(path, document, lines))
    return replace(file, health_events=_health_events(path, document, lines, file.pools))


def _dialect(path: Path, document: dict[str, Any], lines: Lines) -> str:
    """Which of the two apiVersions the file has; ConfigError that says what to write."""
    way_out = f"write {OWN_VERSION}, or {KIND_VERSION} in a file as kind takes it"
    versions = dict.fromkeys((OWN_VERSION, KIND_VERSION), way_out)
    for name, known in (("apiVersion", versions), ("kind", {"Cluster": "write Cluster"})):
        if name not in document:
            raise _error(path, lines, (name,), f"is missing; {next(iter(known.values()))}")
        value = document[name]
        if not isinstance(value, str) or value not in known:
            text = f"{quoted(value)} is not supported; {next(iter(known.values()))}"
            raise _error(path, lines, (name,), text)
    version: str = document["apiVersion"]
    return version


def _health_events(
    path: Path, document: dict[str, Any], lines: Lines, pools: list[NodePool]
) -> tuple[HealthEvent, ...]:
    """The events of ``deviceHealth``, and of its trace; failure models are checked on the way."""
    nodes: dict[str, tuple[DeviceConfig, ...]] = {}
    for number, pool in enumerate(pools):
        _check_failures(path, pool, number, lines)
        _check_drivers(path, pool, number, lines)
        configs = device_configs(pool.devices)
        nodes |= dict.fromkeys(pool.node_names(), configs)
    given = document["spec"].get("deviceHealth", {})

    def about(index: int) -> Callable[[str, str], ConfigError]:
        at = ("spec", "deviceHealth", "events", index)
        return lambda name, message: _error(path, lines, (*at, name), message)

    events = read_events(given.get("events", []), nodes, about)
    if "trace" in given:
        trace = path.parent / given["trace"]
        if not trace.is_file():
            at = ("spec", "deviceHealth", "trace")
            raise _error(path, lines, at, f"{trace}: cannot be read: there is no such file")
        events += read_trace(trace, nodes)
    return tuple(sorted(events, key=lambda event: event.at_s))


def _check_failures(path: Path, pool: NodePool, number: int, lines: Lines) -> None:
    for index, devices in enumerate(pool.devices):
        if "failures" in devices:
            at = ("spec", "nodePools", number, "devices", index, "failures")
            read_failures(
                devices["failures"],
                lambda name, text, at=at: _error(path, lines, (*at, name), text),  # type: ignore[misc]
            )


def _check_drivers(path: Path, pool: NodePool, number: int, lines: Lines) -> None:
    """A node has one set of devices of each driver, and real ones only where pods are real."""
    seen: dict[str, int] = {}
    for index, config in enumerate(device_configs(pool.devices)[: len(pool.devices)]):
        at = ("spec", "nodePools", number, "devices", index)
        check_options(
            pool.devices[index],
            lambda name, text, at=at: _error(path, lines, (*at, name), text),  # type: ignore[misc]
        )
        if config.profile == NVML and pool.runtime != "process":
            text = f"GPUs of this machine need runtime: process, but pool {pool.name} is simulated"
            raise _error(path, lines, (*at, "profile"), text)
        try:
            driver = driver_of(config)
        except ConfigError as error:
            raise _error(path, lines, at, str(error)) from None
        if driver in seen:
            text = f"devices[{seen[driver]}] is of driver {driver} too; give one another driver"
            raise _error(path, lines, at, text)
        seen[driver] = index


def _error(path: Path, lines: Lines, at: tuple[str | int, ...], message: str) -> ConfigError:
    line = next((lines[at[:n]] for n in range(len(at), -1, -1) if at[:n] in lines), 1)
    if len(message) > MOST_CHARACTERS:  # a value that nobody reads; the way out stands at the end
        message = f"{message[: MOST_CHARACTERS // 2]} ... {message[-MOST_CHARACTERS // 2 :]}"
    return ConfigError(f"{path}:{line}: {_show(at)}: {message}")


def _scheduler(path: Path, document: dict[str, Any], lines: Lines) -> SchedulerConfig:
    given = document["spec"].get("schedulerConfig")
    if given is None:
        return SchedulerConfig()
    try:
        return read_config(given)
    except SchedulerConfigError as error:
        at: tuple[str | int, ...] = ("spec", "schedulerConfig", *error.path)
        line = next((lines[at[:n]] for n in range(len(at), 0, -1) if at[:n] in lines), 1)
        raise ConfigError(f"{path}:{line}: spec.schedulerConfig.{error}") from None


def _compose(path: Path, text: str) -> tuple[Any, Lines]:
    """The YAML value and, for each path in it, the line it stands on (from 1)."""
    try:
        nodes = [node for node in yaml.compose_all(text, yaml.CSafeLoader) if node is not None]
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f"{path}:{mark.line + 1}" if mark else str(path)
        raise ConfigError(f"{where}: not valid YAML: {getattr(error, 'problem', error)}") from None
    if len(nodes) != 1:
        raise ConfigError(f"{path}: holds {len(nodes)} YAML documents; a cluster file is one")
    try:
        value, _ = decode_yaml(text)
    except ApiError as error:
        trouble = error.message.removeprefix("error decoding request body: ").removeprefix("yaml: ")
        raise ConfigError(f"{path}: not valid YAML: {trouble}") from None
    lines: Lines = {}
    _record_lines(path, nodes[0], (), lines)
    return value, lines


def _record_lines(path: Path, node: Any, at: tuple[str | int, ...], lines: Lines) -> None:
    """What could not be read, or grows without end by its aliases, has been refused before."""
    lines.setdefault(at, node.start_mark.line + 1)
    if isinstance(node, yaml.MappingNode):
        seen: dict[str, int] = {}
        for key, value in node.value:
            line = key.start_mark.line + 1
            if not isinstance(key, yaml.ScalarNode):
                raise ConfigError(f"{path}:{line}: {_show(at)}: a key must be text, not a value")
            if key.value in seen:
                first = seen[key.value]
                raise ConfigError(
                    f"{path}:{line}: {quoted(key.value)} was given on line {first} already"
                )
            seen[key.value] = line
            lines[(*at, key.value)] = line
            _record_lines(path, value, (*at, key.value), lines)
    elif isinstance(node, yaml.SequenceNode):
        for index, value in enumerate(node.value):
            _record_lines(path, value, (*at, index), lines)


def _show(at: tuple[str | int, ...]) -> str:
    text = ""
    for part in at:
        text += f"[{part}]" if isinstance(part, int) else f".{part}" if text else part
    return text or "the file"


class _Checker:
    """The part of JSON Schema that schema.json uses, with messages that name the way out."""

    def __init__(self, path: Path, schema: dict[str, Any], lines: Lines) -> None:
        self.path, self.schema, self.lines = path, schema, lines

    def fail(self, at: tuple[str | int, ...], message: str) -> None:
        raise _error(self.path, self.lines, at, message)

    def check(self, value: Any, schema: dict[str, Any], at: tuple[str | int, ...] = ()) -> None:
        if "$ref" in schema:
            schema = self.schema["$defs"][schema["$ref"].rsplit("/", 1)[1]]
        if "const" in schema and value != schema["const"]:
            self.fail(at, f"{quoted(value)} is not supported; write {schema['const']}")
        if "enum" in schema and value not in schema["enum"]:
            self.fail(at, f"{quoted(value)} is not one of {', '.join(schema['enum'])}")
        self._check_type(value, schema, at)
        if isinstance(value, dict):
            self._check_mapping(value, schema, at)
        elif isinstance(value, list):
            if len(value) < schema.get("minItems", 0):
                self.fail(at, f"{quoted(value)} is empty; list one at least, or leave it out")
            for index, item in enumerate(value):
                self.check(item, schema.get("items", {}), (*at, index))
        else:
            self._check_scalar(value, schema, at)

    def _check_type(self, value: Any, schema: dict[str, Any], at: tuple[str | int, ...]) -> None:
        wanted = schema.get("type")
        if wanted is None:
            return
        names = wanted if isinstance(wanted, list) else [wanted]
        found = _json_type(value)
        if found not in names and not (found == "integer" and "number" in names):
            self.fail(at, f"must be of type {' or '.join(names)}, but {quoted(value)} is {found}")

    def _check_mapping(
        self, value: dict[Any, Any], schema: dict[str, Any], at: tuple[str | int, ...]
    ) -> None:
        known = schema.get("properties", {})
        for key in value:
            if not isinstance(key, str):
                self.fail(at, f"key {quoted(key)} must be text; put it in quotes")
            if key not in known and schema.get("additionalProperties") is False:
                close = difflib.get_close_matches(key, known, 1)
                way_out = f"did you mean {close[0]!r}?" if close else f"known: {', '.join(known)}"
                self.fail((*at, key), f"unknown field {quoted(key)}; {way_out}")
        for name in schema.get("required", []):
            if name not in value:
                self.fail(at, f"{quoted(name)} is missing; add {self._form(name, known[name])}")
        for key, item in value.items():
            if key in known:
                self.check(item, known[key], (*at, key))
            elif isinstance(schema.get("additionalProperties"), dict):
                self.check(item, schema["additionalProperties"], (*at, key))

    def _form(self, name: str, schema: dict[str, Any]) -> str:
        """What to write for a field: ``name: <string>``, ``health: Healthy|Unhealthy``."""
        if "$ref" in schema:
            schema = self.schema["$defs"][schema["$ref"].rsplit("/", 1)[1]]
        if "enum" in schema:
            return f"{name}: {'|'.join(schema['enum'])}"
        wanted = schema.get("type", "value")
        return f"{name}: <{wanted if isinstance(wanted, str) else ' or '.join(wanted)}>"

    def _check_scalar(self, value: Any, schema: dict[str, Any], at: tuple[str | int, ...]) -> None:
        if isinstance(value, int) and not isinstance(value, bool):
            low, high = schema.get("minimum", value), schema.get("maximum", value)
            if not low <= value <= high:
                limits = f"outside {low} to {high}" if "maximum" in schema else f"less than {low}"
                self.fail(at, f"{value} is {limits}")
        if isinstance(value, str):
            if len(value) > schema.get("maxLength", len(value)):
                self.fail(at, f"{quoted(value)} is longer than {schema['maxLength']} characters")
            pattern = schema.get("pattern")
            if pattern and not _matches(pattern, value):
                form = schema.get("form", "lower-case letters, digits, '-' or '.'")
                self.fail(at, f"{quoted(value)} must be {form}")


def _json_type(value: Any) -> str:
    if isinstance(value, bool):
        return "boolean"
    names = {dict: "object", list: "array", str: "string", int: "integer", float: "number"}
    return names.get(type(value), "null" if value is None else type(value).__name__)


def _matches(pattern: str, value: str) -> bool:
    return re.fullmatch(pattern.strip("^$"), value) is not None


def _check_schema(path: Path, document: dict[str, Any], lines: Lines) -> None:
    schema = orjson.loads(resources.files(__package__).joinpath("schema.json").read_bytes())
    _Checker(path, schema, lines).check(document, schema)


def _check_names(path: Path, document: dict[str, Any], lines: Lines) -> None:
    for number, pool in enumerate(document["spec"]["nodePools"]):
        for at, problem in refused(pool):
            raise _error(path, lines, ("spec", "nodePools", number, *at), problem)


def _check_kubelets(path: Path, document: dict[str, Any], lines: Lines) -> None:
    for number, pool in enumerate(document["spec"]["nodePools"]):
        try:
            read_kubelet_config(pool.get("kubelet", {}))
        except FieldError as error:
            at = ("spec", "nodePools", number, "kubelet", *error.path)
            raise _error(path, lines, at, str(error)) from None


def _check_images(path: Path, document: dict[str, Any], lines: Lines) -> None:
    known = [entry.name for entry in builtin_images()]
    for name, image in document["spec"].get("images", {}).items():
        like = image.get("like")
        if like is not None and like not in known:
            close = difflib.get_close_matches(like, known, 1)
            hint = f"did you mean {close[0]}?" if close else f"write one of {', '.join(known)}"
            at = ("spec", "images", name, "like")
            raise _error(path, lines, at, f"there is no built-in image {quoted(like)}; {hint}")


_ATTRIBUTE_TYPES = {"string": str, "version": str, "int": int, "bool": bool}


def _check_attributes(path: Path, document: dict[str, Any], lines: Lines) -> None:
    """A device attribute is one of {string: …}, {version: …}, {int: …}, {bool: …}."""
    for number, pool in enumerate(document["spec"]["nodePools"]):
        for index, devices in enumerate(pool.get("devices", [])):
            for name, value in devices.get("attributes", {}).items():
                at = ("spec", "nodePools", number, "devices", index, "attributes", name)
                if not _is_attribute(value):
                    raise ConfigError(
                        f"{path}:{lines.get(at, 1)}: {_show(at)}: {quoted(value)} is no attribute; "
                        "write {string: text}, {version: 1.2.3}, {int: 3} or {bool: true}"
                    )


def _is_attribute(value: Any) -> bool:
    if not isinstance(value, dict) or len(value) != 1:
        return False
    [(kind, content)] = value.items()
    return type(content) is _ATTRIBUTE_TYPES.get(kind)


def _from_document(path: Path, document: dict[str, Any]) -> ClusterFile:
    spec = document["spec"]
    pools = []
    for pool in spec["nodePools"]:
        given = {name: str(value) for name, value in pool.get("capacity", {}).items()}
        known = {key: pool[key] for key in _PLAIN_FIELDS if key in pool}
        if "staticPodPath" in known.get("kubelet", {}):  # beside the file, if it is relative
            static = str((path.parent / known["kubelet"]["staticPodPath"]).resolve())
            known["kubelet"] = known["kubelet"] | {"staticPodPath": static}
        pools.append(NodePool(capacity=DEFAULT_CAPACITY | given, **known))
    name = document.get("metadata", {}).get("name", "")
    return ClusterFile(pools, name, spec.get("images", {}))


_PLAIN_FIELDS = ("name", "count", "runtime", "labels", "topology", "taints", "devices", "kubelet")
_KIND_NODE_FIELDS = {"role", "labels"}


def _from_kind(path: Path, document: dict[str, Any], lines: Lines) -> ClusterFile:
    """kind's file: each node becomes a pool of one, named as kind names its containers."""
    name, nodes = document.get("name", "kind"), document.get("nodes")
    if nodes is None or nodes == []:
        nodes = [{"role": "control-plane"}]
    if not isinstance(name, str) or not _matches("[a-z0-9]([-a-z0-9.]*[a-z0-9])?", name):
        text = f"{quoted(name)} must be lower-case letters, digits, '-' or '.'"
        raise _error(path, lines, ("name",), text)
    if not isinstance(nodes, list):
        raise _error(path, lines, ("nodes",), f"must be a list of nodes, not {quoted(nodes)}")
    ignored = [key for key in document if key not in ("kind", "apiVersion", "name", "nodes")]
    pools: list[NodePool] = []
    counts: dict[str, int] = {}
    for index, node in enumerate(nodes):
        if not isinstance(node, dict):
            text = f"{quoted(node)} is no node; write {{role: worker}}"
            raise _error(path, lines, ("nodes", index), text)
        role = node.get("role", "control-plane")
        if role not in ("control-plane", "worker"):
            text = f"{quoted(role)} is not one of control-plane, worker"
            raise _error(path, lines, ("nodes", index, "role"), text)
        ignored += [f"nodes[{index}].{key}" for key in node if key not in _KIND_NODE_FIELDS]
        counts[role] = counts.get(role, 0) + 1
        suffix = str(counts[role]) if counts[role] > 1 else ""
        labels = _kind_labels(path, node.get("labels") or {}, ("nodes", index, "labels"), lines)
        taints: list[dict[str, str]] = []
        if role == "control-plane":
            labels[CONTROL_PLANE_LABEL] = ""
            taints.append({"key": CONTROL_PLANE_LABEL, "effect": "NoSchedule"})
        node_name = f"{name}-{role}{suffix}"
        pools.append(NodePool(node_name, labels=labels, taints=taints, exact_name=True))
    if all(pool.taints for pool in pools):  # kind runs pods on a lone control plane
        pools = [replace(pool, taints=[]) for pool in pools]
    return ClusterFile(pools, name, ignored=ignored)


def _kind_labels(path: Path, given: Any, at: tuple[str | int, ...], lines: Lines) -> dict[str, str]:
    if not isinstance(given, dict):
        raise _error(path, lines, at, f"must be a mapping of labels, not {quoted(given)}")
    labels = {str(key): str(value) for key, value in given.items()}
    for within, problem in refused({"labels": labels}):
        raise _error(path, lines, (*at, *within[1:]), problem)
    return labels
