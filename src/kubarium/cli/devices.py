"""`kubarium devices`: what devices there are, who holds them, how they are; and commands."""

from __future__ import annotations

import asyncio
import difflib
import sys
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import orjson
from prometheus_client.parser import text_string_to_metric_families

from kubarium.api.kinds import (
    DEVICE_TAINT_RULES,
    EVENTS,
    NODES,
    RESOURCE_CLAIMS,
    RESOURCE_SLICES,
)
from kubarium.api.resource import Document
from kubarium.base.errors import ApiError, ConfigError
from kubarium.base.quoted import listed
from kubarium.cli.connection import asking
from kubarium.cli.console import out
from kubarium.cli.nodes import node_named
from kubarium.client.gather import gather
from kubarium.client.http import HttpClient
from kubarium.cluster.device_health import devices_spoken_of, devices_unknown
from kubarium.engine.devices.model import DeviceId
from kubarium.view.device_pools import blocked_by, unusable_slices
from kubarium.view.device_taints import TaintRule, taint_rule

# A table of more devices than this is one row for each node; of more nodes, metrics are not asked.
MAX_ROWS = 256
MAX_SCRAPES = 64
_ASK_AT_ONCE = 8

# Devices named where one is unknown.
_DEVICES_NAMED = 8

# The state of an idle device whose counters are spent, and how many that hold them are named.
BLOCKED = "blocked"
_BLOCKERS_NAMED = 3

_MEASURES = {
    "hw_gpu_utilization_ratio": "utilization",
    "hw_gpu_memory_usage_bytes": "memory_used",
    "hw_gpu_memory_limit_bytes": "memory_total",
    "hw_power_watts": "power_w",
    "hw_temperature_celsius": "temperature_c",
}


@dataclass(slots=True)
class Row:
    """One published device."""

    node: str
    driver: str
    device: str
    model: str
    state: str
    claims: list[str] = field(default_factory=list)
    measures: dict[str, float] = field(default_factory=dict)
    # Devices of the pool that hold the counters which this one needs.
    blocked_by: list[str] = field(default_factory=list)
    # Why its pool gives no devices; "" if it does.
    unusable: str = ""
    # What its metrics call it, or the GPU that it is a part of.
    hardware_id: str = ""


async def _rows(client: HttpClient, node: str, driver: str) -> list[Row]:
    found = await gather(client, [RESOURCE_SLICES, RESOURCE_CLAIMS])
    slices, claims = found[RESOURCE_SLICES], found[RESOURCE_CLAIMS]
    rules = await _taint_rules(client)
    holders = _holders(claims)
    blocked = blocked_by(slices, claims)
    unusable = unusable_slices(slices)
    rows = []
    for document in slices:
        spec = document["spec"]
        if driver and spec["driver"] != driver:
            continue
        for device in spec.get("devices") or ():
            where = spec.get("nodeName") or device.get("nodeName", "")
            if node and where != node:
                continue
            key = DeviceId(spec["driver"], spec["pool"]["name"], device["name"])
            blockers = list(blocked.get(key, ()))
            rows.append(
                Row(
                    where,
                    spec["driver"],
                    device["name"],
                    _model(device),
                    _state(device, key in blocked, [r for r in rules if r.selects(*key)]),
                    holders.get(key, []),
                    blocked_by=blockers,
                    unusable=unusable.get(document["metadata"]["name"], ""),
                    hardware_id=_hardware_id(device),
                )
            )
    nodes = list(dict.fromkeys(row.node for row in rows if row.node))
    if len(nodes) <= MAX_SCRAPES:
        await _measure(client, rows, nodes)
    return rows


async def _taint_rules(client: HttpClient) -> list[TaintRule]:
    """The DeviceTaintRules; none where the cluster has no such kind, or the user may not see it."""
    documents = (await gather(client, [DEVICE_TAINT_RULES], needed=()))[DEVICE_TAINT_RULES]
    return [taint_rule(document) for document in documents]


async def _ask(client: HttpClient, node: str, driver: str) -> tuple[list[Row], list[str]]:
    """The devices; and where there are none, what nodes have said of that."""
    rows = await _rows(client, node, driver)
    if rows:
        return rows, []
    if node:
        await node_named(client, node)
    events = (await client.list(EVENTS, field_selector="reason=NoGpus")).items
    about = [(event["involvedObject"]["name"], event.get("message", "")) for event in events]
    return [], [f"{name}: {text}" for name, text in about if node in ("", name)]


def _holders(claims: Iterable[Document]) -> dict[DeviceId, list[str]]:
    found: dict[DeviceId, list[str]] = {}
    for claim in claims:
        status, metadata = claim.get("status") or {}, claim["metadata"]
        allocation = (status.get("allocation") or {}).get("devices") or {}
        pods = [e["name"] for e in status.get("reservedFor") or () if e.get("resource") == "pods"]
        names = pods or [f"claim {metadata['name']}"]
        for result in allocation.get("results") or ():
            key = DeviceId(result["driver"], result["pool"], result["device"])
            shown = found.setdefault(key, [])
            shown += [f"{metadata['namespace']}/{name}" for name in names]
    return found


def _model(device: Document) -> str:
    attributes = device.get("attributes") or {}
    for name, value in attributes.items():
        if name.rpartition("/")[2] in ("productName", "model", "pciDevice"):
            return str(value.get("string", ""))
    return ""


def _hardware_id(device: Document) -> str:
    """What a device's metrics call it, or the GPU that it is a part of: drivers of one node may use
    the same names."""
    attributes = device.get("attributes") or {}
    found = attributes.get("uuid") or attributes.get("parentUUID") or {}
    return str(found.get("string", ""))


def _state(device: Document, blocked: bool = False, rules: Sequence[TaintRule] = ()) -> str:
    taints = [
        f"{t['key'].rpartition('/')[2]}{'=' + t['value'] if t.get('value', '') != '' else ''}"
        f":{t['effect']}".replace("=true", "")
        for t in device.get("taints") or ()
    ]
    taints += [f"{rule.taint} (DeviceTaintRule {rule.name})" for rule in rules]
    if taints:
        return ", ".join(taints)
    return BLOCKED if blocked else "ok"


async def _measure(client: HttpClient, rows: list[Row], nodes: list[str]) -> None:
    """Fill in what the nodes' metrics tell; a node that serves none is left as it is."""
    by_device = {(row.node, row.hardware_id, row.device): row for row in rows}
    gate = asyncio.Semaphore(_ASK_AT_ONCE)

    async def ask(node: str) -> None:
        async with gate:
            try:
                text = await client.raw(f"/api/v1/nodes/{node}/proxy/metrics")
            except ApiError:
                return
        for family in text_string_to_metric_families(text.decode()):
            for sample in family.samples:
                labels = sample.labels
                name = labels.get("hw_name", "")
                row = by_device.get((node, labels.get("hw_id", ""), name))
                row = row or by_device.get((node, labels.get("hw_parent", ""), name))
                if row is not None and sample.name in _MEASURES:
                    row.measures[_MEASURES[sample.name]] = sample.value

    await asyncio.gather(*(ask(node) for node in nodes))


def show(node: str, driver: str, name: str, config: Path | None, context: str, output: str) -> None:
    """A table of the devices of a node, or of all nodes."""
    if output not in ("text", "json"):
        raise ConfigError(f"--output {output!r}: write text or json")
    rows, reasons = asking(name, config, context, lambda client: _ask(client, node, driver))
    rows.sort(key=lambda row: (_natural(row.node), row.driver, _natural(row.device)))
    if output == "json":
        text = orjson.dumps([asdict(row) for row in rows], option=orjson.OPT_INDENT_2)
        sys.stdout.write(text.decode() + "\n")
        return
    if not rows:
        where = f" on node {node}" if node else ""
        out.print(f"no devices{where}; a cluster file gives them (nodePools[].devices)")
        for reason in reasons:
            out.print(f"  {reason}", markup=False)
        return
    table = [_line(row) for row in rows] if len(rows) <= MAX_ROWS else _by_node(rows)
    head = _HEAD if len(rows) <= MAX_ROWS else _NODE_HEAD
    for line in _aligned([head, *table]):
        out.print(line, markup=False)
    if len(rows) > MAX_ROWS:
        out.print(f"{len(rows)} devices; name a node to see its own")


_HEAD = ["NODE", "DEVICE", "MODEL", "STATE", "UTIL", "MEMORY", "POWER", "TEMP", "HELD BY"]
_NODE_HEAD = ["NODE", "DRIVER", "DEVICES", "HELD", "TAINTED", "UTIL", "POWER"]


def _line(row: Row) -> list[str]:
    get = row.measures.get
    used, total = get("memory_used"), get("memory_total")
    return [
        row.node or "-",
        row.device,
        row.model or row.driver,
        _state_shown(row),
        _shown(get("utilization"), "{:.0%}"),
        f"{used / 2**30:.1f}/{total / 2**30:.0f}Gi" if used is not None and total else "-",
        _shown(get("power_w"), "{:.0f}W"),
        _shown(get("temperature_c"), "{:.0f}C"),
        ", ".join(row.claims) or "-",
    ]


def _state_shown(row: Row) -> str:
    """``blocked by gpu-0``; after a taint if there is one. So is what is wrong with the pool."""
    if row.unusable:
        return row.unusable if row.state == "ok" else f"{row.state}, {row.unusable}"
    if not row.blocked_by:
        return f"{BLOCKED}: too few counters" if row.state == BLOCKED else row.state
    text = f"{BLOCKED} by {listed(row.blocked_by, _BLOCKERS_NAMED)}"
    return text if row.state == BLOCKED else f"{row.state}, {text}"


def _by_node(rows: list[Row]) -> list[list[str]]:
    groups: dict[tuple[str, str], list[Row]] = {}
    for row in rows:
        groups.setdefault((row.node, row.driver), []).append(row)
    lines = []
    for (node, driver), group in groups.items():
        levels = [r.measures["utilization"] for r in group if "utilization" in r.measures]
        watts = [r.measures["power_w"] for r in group if "power_w" in r.measures]
        lines.append(
            [
                node or "-",
                driver,
                str(len(group)),
                str(sum(bool(row.claims) for row in group)),
                str(sum(row.state not in ("ok", BLOCKED) for row in group)),
                _shown(sum(levels) / len(levels) if levels else None, "{:.0%}"),
                _shown(sum(watts) if watts else None, "{:.0f}W"),
            ]
        )
    return lines


def _shown(value: float | None, form: str) -> str:
    return "-" if value is None else form.format(value)


def _aligned(table: list[list[str]]) -> list[str]:
    widths = [max(len(line[column]) for line in table) for column in range(len(table[0]))]
    return [
        "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip()
        for line in table
    ]


def _natural(text: str) -> list[Any]:
    """A key that puts gpu-2 before gpu-10."""
    return [(0, int(part), "") if part.isdigit() else (1, 0, part) for part in text.split("-")]


async def _check_published(
    client: HttpClient, node: str, driver: str, named: Iterable[str]
) -> None:
    """ConfigError if the node's driver does not publish one of the devices."""
    await client.get(NODES, node)  # an error of its own if there is no such node
    of_node = f"spec.nodeName={node},spec.driver={driver}"
    slices = (await client.list(RESOURCE_SLICES, field_selector=of_node)).items
    published = {device["name"] for s in slices for device in s["spec"].get("devices") or ()}
    unknown = devices_unknown(named, published)
    if not unknown:
        return
    if not published:
        raise ConfigError(f"--health: driver {driver} publishes no devices on node {node}")
    close = difflib.get_close_matches(unknown[0], published, 1)
    some = sorted(published, key=_natural)[:_DEVICES_NAMED]
    hint = f"did you mean {close[0]}?" if close else f"there are {', '.join(some)}"
    raise ConfigError(f"--health: node {node} has no device {unknown[0]} of {driver}; {hint}")


def command(
    node: str,
    driver: str,
    count: int | None,
    health: str | None,
    name: str,
    config: Path | None,
    context: str,
) -> None:
    """Ask a node's driver for another number of devices, or say how its devices are."""
    if not node or not driver:
        missing = "NODE" if not node else "--driver"
        raise ConfigError(f"{missing} is missing: say whose devices shall change")
    annotations: dict[str, str | None] = {}
    if count is not None:
        if not 0 <= count <= 1024:
            raise ConfigError(f"--count {count}: give 0 to 1024 devices")
        annotations[f"kubarium.dev/devices.{driver}"] = str(count)
    if health is not None:
        annotations[f"kubarium.dev/device-health.{driver}"] = health or None

    try:
        named = devices_spoken_of(health or "")
    except ConfigError as error:
        raise ConfigError(f"--health: {error}") from None

    async def ask(client: HttpClient) -> None:
        if named and count is None:
            await _check_published(client, node, driver, named)
        await client.patch(NODES, node, {"metadata": {"annotations": annotations}})

    asking(name, config, context, ask)
    if count is not None:
        out.print(f"node/{node}: driver {driver} is asked to publish {count} devices")
    if health is not None:
        told = f"that {health}" if health else "that all its devices are well"
        out.print(f"node/{node}: driver {driver} is told {told}", markup=False)
