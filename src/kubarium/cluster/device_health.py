"""Health of devices in a cluster file: events at times, a trace of them, and failure models.

A trace is a table with the columns ``at,node,driver,device,health,effect,for`` (CSV with a header,
or one JSON object a line); ``driver``, ``effect`` and ``for`` may be left out or empty. What is
wrong is said with file, line and field.
"""

from __future__ import annotations

import csv
import difflib
import io
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import orjson

from kubarium.base.duration import duration_s
from kubarium.base.errors import ConfigError
from kubarium.node.config import DeviceConfig, FailureModel, HealthEvent
from kubarium.node.drivers.health import (
    HEALTHY,
    absent_devices,
    parse_health,
    read_health,
)
from kubarium.node.drivers.profiles import FREE, NVML, devices_of, driver_of
from kubarium.node.drivers.schedule import hardware_of

_COLUMNS = ("at", "node", "driver", "device", "health", "effect", "for")
_REQUIRED = ("at", "node", "device", "health")


def devices_spoken_of(text: str) -> list[str]:
    """The devices in ``gpu-0=xid-79,gpu-3=Unhealthy:NoExecute``; ConfigError if it is not that."""
    return list(parse_health(text))


def devices_unknown(named: Iterable[str], published: Iterable[str]) -> list[str]:
    """Those of the named devices that are neither published nor GPUs of which parts are."""
    return absent_devices(published, named)


# The devices of each node of the file.
Nodes = Mapping[str, tuple[DeviceConfig, ...]]

# The names of a configuration's devices, by its identity and, if they hold it, the node's name.
Names = dict[tuple[int, str], dict[str, None]]

# Makes a ConfigError that says where (a field of the event) and what.
Fail = Callable[[str, str], ConfigError]


def read_failures(given: Mapping[str, Any], fail: Fail) -> FailureModel:
    """A failure model; what ``fail`` makes of a field that is wrong is raised."""
    word, effect = str(given.get("health", "Unhealthy")), str(given.get("effect", ""))
    times = {name: _seconds(given[name], name, fail) for name in ("mtbf", "mttr")}
    for name, value in times.items():
        if value <= 0:
            raise fail(name, f"{given[name]!r}: must be more than nothing")
    _check_health(word, effect, fail)
    if word == HEALTHY:
        raise fail("health", f"{word!r} is no failure")
    return FailureModel(times["mtbf"], times["mttr"], word, effect, int(given.get("seed", 0)))


def read_events(
    events: list[dict[str, Any]], nodes: Nodes, fail: Callable[[int], Fail]
) -> list[HealthEvent]:
    """Events of the file itself; ``fail(index)`` speaks of one of them."""
    known: Names = {}
    return [_event(given, nodes, known, fail(index)) for index, given in enumerate(events)]


def read_trace(path: Path, nodes: Nodes) -> list[HealthEvent]:
    """The events of a trace; ConfigError names file, line and field."""
    try:
        text = path.read_text(encoding="utf-8-sig")  # spreadsheets write a byte order mark
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: cannot be read: {error}") from None
    if path.suffix == ".jsonl":
        rows = _json_rows(path, text)
    elif path.suffix == ".csv":
        rows = _csv_rows(path, text)
    else:
        raise ConfigError(f"{path}: a trace is a .csv or a .jsonl file")
    known: Names = {}
    return [_event(row, nodes, known, _at_line(path, line)) for line, row in rows]


def _at_line(path: Path, line: int) -> Fail:
    return lambda field, message: ConfigError(f"{path}:{line}: {field}: {message}")


def _csv_rows(path: Path, text: str) -> Iterator[tuple[int, dict[str, Any]]]:
    reader = csv.DictReader(io.StringIO(text, newline=""), restkey="", strict=True)
    try:
        _check_header(path, reader.fieldnames or ())
        for row in reader:
            if "" in row:
                raise ConfigError(f"{path}:{reader.line_num}: more values than columns: {row['']}")
            yield reader.line_num, {name: value for name, value in row.items() if value}
    except csv.Error as error:
        raise ConfigError(f"{path}:{reader.line_num + 1}: not valid CSV: {error}") from None


def _check_header(path: Path, header: Sequence[str]) -> None:
    for name in header:
        if name not in _COLUMNS:
            raise ConfigError(f"{path}:1: {name!r}: no such column; {_hint(name)}")
        if header.count(name) > 1:
            raise ConfigError(f"{path}:1: column {name!r} stands there twice")
    for name in _REQUIRED:
        if name not in header:
            raise ConfigError(f"{path}:1: column {name!r} is missing")


def _json_rows(path: Path, text: str) -> Iterator[tuple[int, dict[str, Any]]]:
    # Only line feeds end a line: JSON may hold the other characters that Python takes for an end.
    for line, content in enumerate(text.split("\n"), 1):
        if not content.strip():
            continue
        try:
            row = orjson.loads(content)
        except orjson.JSONDecodeError as error:
            raise ConfigError(f"{path}:{line}: not valid JSON: {error}") from None
        if not isinstance(row, dict):
            raise ConfigError(f"{path}:{line}: must be a JSON object, but {content!r} is not")
        for name in row:
            if name not in _COLUMNS:
                raise ConfigError(f"{path}:{line}: {name!r}: no such field; {_hint(name)}")
        yield line, row


def _hint(name: str) -> str:
    close = difflib.get_close_matches(name, _COLUMNS, 1)
    return f"did you mean {close[0]!r}?" if close else f"known: {', '.join(_COLUMNS)}"


def _event(given: Mapping[str, Any], nodes: Nodes, known: Names, fail: Fail) -> HealthEvent:
    given = {name: value for name, value in given.items() if value is not None}
    for name in _REQUIRED:
        if given.get(name, "") == "":
            raise fail(name, "is missing")
    node = str(given["node"])
    if node not in nodes:
        close = difflib.get_close_matches(node, nodes, 1)
        hint = f"; did you mean {close[0]!r}?" if close else ""
        raise fail("node", f"no node is called {node!r}{hint}")
    driver, config = _driver(str(given.get("driver", "")), node, nodes[node], fail)
    device = str(given["device"])
    _check_device(device, config, node, known, fail)
    word, effect = str(given["health"]), str(given.get("effect", ""))
    _check_health(word, effect, fail)
    lasts = given.get("for", "")
    return HealthEvent(
        _seconds(given["at"], "at", fail),
        node,
        driver,
        device,
        word,
        effect,
        None if lasts == "" else _seconds(lasts, "for", fail),
    )


def _driver(
    name: str, node: str, devices: tuple[DeviceConfig, ...], fail: Fail
) -> tuple[str, DeviceConfig]:
    """The driver that is meant: the node's only one if none is named."""
    drivers = {driver_of(config): config for config in devices}
    if not name and len(drivers) == 1:
        return next(iter(drivers.items()))
    if not drivers:
        raise fail("node", f"{node} has no devices")
    if name not in drivers:
        text = f"{name!r} has no devices on {node}" if name else "is missing"
        raise fail("driver", f"{text}; {node} has {', '.join(drivers)}")
    return name, drivers[name]


def _check_device(device: str, config: DeviceConfig, node: str, known: Names, fail: Fail) -> None:
    if config.profile == NVML:
        return  # only the machine knows what there will be
    # The nodes of a pool share one configuration; names may hold the node's.
    key = (id(config), node if config.profile == FREE else "")
    if key not in known:
        parts = (d["name"] for d in devices_of(config, node, config.count))
        known[key] = dict.fromkeys([*hardware_of(config, node), *parts])
    if device not in known[key]:
        names = list(known[key])
        shown = ", ".join(names[:8]) + (", …" if len(names) > 8 else "")
        raise fail("device", f"{node} has no device {device!r}; it has {shown or 'none'}")


def _check_health(word: str, effect: str, fail: Fail) -> None:
    try:
        read_health(word, effect)
    except ConfigError as error:
        raise fail("effect" if str(error).startswith("effect") else "health", str(error)) from None


def _seconds(value: Any, name: str, fail: Fail) -> float:
    try:
        return duration_s(str(value))
    except ValueError:
        message = f"{value!r} is no duration; write 90s, 5m, 1h30m or seconds"
        raise fail(name, message) from None
