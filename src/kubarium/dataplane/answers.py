"""Small answers for a reader with little room: API documents cut to size, secrets left out.

An answer never floods its reader: what does not fit is replaced by a sentence that says how much
there is and how to ask for it. Pure functions on documents.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any

import orjson

from kubarium.api.resource import Document
from kubarium.api.tables.durations import human
from kubarium.base.clock import parse_rfc3339

# Characters of JSON in one answer: some 2,000 tokens, so that ten answers still leave a model room
# to think.
ANSWER_CHARACTERS = 8_000

# Below this a part is not worth cutting further: the sentence that replaces it is as long.
_PART_CHARACTERS = 160

# Characters of one cell of a list, and of one message of an event or condition.
CELL_CHARACTERS = 120
MESSAGE_CHARACTERS = 400

_LAST_APPLIED = "kubectl.kubernetes.io/last-applied-configuration"
_STEP = re.compile(r'(?:^|\.)([^.\[\]"]+)|\[(\d+)\]|\["((?:[^"\\]|\\.)*)"\]')


class PathError(ValueError):
    """A path that leads nowhere; the text says where it ended and what there is."""


def readable(document: Document) -> Document:
    """``document`` without managedFields, without the last applied copy, without secret values."""
    shown = dict(document)
    metadata = dict(document.get("metadata") or {})
    metadata.pop("managedFields", None)
    if annotations := metadata.get("annotations"):
        rest = {key: value for key, value in annotations.items() if key != _LAST_APPLIED}
        metadata["annotations"] = rest
        if not rest:
            del metadata["annotations"]
    shown["metadata"] = metadata
    if document.get("kind") == "Secret":
        for field in ("data", "stringData"):
            if shown.get(field):
                shown[field] = dict.fromkeys(shown[field], "<hidden: a secret value>")
    return shown


def select(document: Any, path: str) -> Any:
    """The part at ``path``, such as ``spec.containers[0]`` or ``data["a.txt"]``; "" is all.

    PathError if there is no such part.
    """
    value, done = document, ""
    at = 0
    while at < len(path):
        match = _STEP.match(path, at)
        if match is None:
            raise PathError(f'path {path!r}: cannot be read from {path[at:]!r} on; write it like '
                            'spec.containers[0].env or data["file.txt"]')  # fmt: skip
        key, index, quoted = match.groups()
        step: str | int = int(index) if index is not None else (key or _unquoted(quoted))
        value = _child(value, step, done)
        done, at = path[: match.end()], match.end()
    return value


def page(value: Any, offset: int) -> Any:
    """``value`` from ``offset`` on: an item of a list, or a character of a text."""
    return value[offset:] if offset and isinstance(value, list | str) else value


def fit(value: Any, budget: int, path: str = "", offset: int = 0) -> Any:
    """``value`` in at most about ``budget`` characters of JSON, with what is left out described.

    ``path`` and ``offset`` say where the value lies, for the sentences that stand for the rest.
    """
    if _size(value) <= budget:
        return value
    if isinstance(value, str):
        shown = value[: max(budget - 80, 40)]
        more = _ask(path, offset + len(shown))
        return f"{shown}… [{len(value) - len(shown)} more characters; {more}]"
    if isinstance(value, list):
        return _fit_list(value, budget, path, offset)
    return _fit_object(value, budget, path) if isinstance(value, dict) else value


def short(text: str, characters: int = CELL_CHARACTERS) -> str:
    """One line of at most ``characters``."""
    line = " ".join(str(text).split())
    return line if len(line) <= characters else f"{line[: characters - 1]}…"


def conditions(document: Document, now: float) -> list[dict[str, str]]:
    """``status.conditions`` with how long each has held."""
    found = (document.get("status") or {}).get("conditions")
    return [
        {
            "type": str(entry.get("type", "")),
            "status": str(entry.get("status", "")),
            "reason": str(entry.get("reason", "")),
            "message": short(entry.get("message", ""), MESSAGE_CHARACTERS),
            "since": age(entry.get("lastTransitionTime", ""), now),
        }
        for entry in found or ()
        if isinstance(entry, Mapping)
    ]


def containers(pod: Document) -> list[dict[str, Any]]:
    """Each container's image, state and restarts, init containers first."""
    spec, status = pod.get("spec") or {}, pod.get("status") or {}
    found = []
    for group, statuses in (
        ("initContainers", "initContainerStatuses"),
        ("containers", "containerStatuses"),
    ):
        by_name = {entry["name"]: entry for entry in status.get(statuses) or ()}
        for container in spec.get(group) or ():
            seen = by_name.get(container["name"], {})
            last = _state(seen.get("lastState") or {})
            found.append(
                {
                    "name": container["name"],
                    "image": container.get("image", ""),
                    "init": group == "initContainers",
                    "ready": bool(seen.get("ready")),
                    "restarts": int(seen.get("restartCount", 0)),
                    "state": _state(seen.get("state") or {}) or "not started",
                    "last_state": last,
                }
            )
    return found


def event_time(event: Document) -> str:
    """When an event happened last, as RFC 3339; "" if it does not say."""
    series = event.get("series") or {}
    return str(
        series.get("lastObservedTime")
        or event.get("lastTimestamp")
        or event.get("eventTime")
        or event.get("firstTimestamp")
        or event["metadata"].get("creationTimestamp")
        or ""
    )


def event_row(event: Document, now: float) -> dict[str, Any]:
    """What matters of an event."""
    about = event.get("involvedObject") or event.get("regarding") or {}
    kind, name = str(about.get("kind", "")).lower(), about.get("name", "")
    return {
        "age": age(event_time(event), now),
        "type": event.get("type", ""),
        "reason": event.get("reason", ""),
        "object": f"{kind}/{name}",
        "namespace": event["metadata"].get("namespace", ""),
        "message": short(event.get("message") or event.get("note", ""), MESSAGE_CHARACTERS),
        "count": int((event.get("series") or {}).get("count") or event.get("count") or 1),
    }


def newest_first(events: Iterable[Document]) -> list[Document]:
    """By the time of the last occurrence; the resourceVersion decides between equals."""

    def order(event: Document) -> tuple[float, int]:
        version = str(event["metadata"].get("resourceVersion", ""))
        return _seconds(event_time(event)), int(version) if version.isdigit() else 0

    return sorted(events, key=order, reverse=True)


def age(timestamp: str, now: float) -> str:
    """How long ago, as kubectl writes it; "" for no timestamp."""
    return human(now - _seconds(timestamp)) if timestamp else ""


def _seconds(timestamp: str) -> float:
    try:
        return parse_rfc3339(timestamp)
    except ValueError:
        return 0.0


def _state(state: Mapping[str, Any]) -> str:
    """``running``, ``waiting: ImagePullBackOff (…)``, ``terminated: Error (exit code 1)``."""
    for name, detail in state.items():
        reason, message = detail.get("reason", ""), detail.get("message", "")
        code = detail.get("exitCode")
        said = [f"exit code {code}"] if code is not None else []
        said += [short(message, MESSAGE_CHARACTERS)] if message else []
        text = f"{name}: {reason}" if reason else name
        return f"{text} ({'; '.join(said)})" if said else text
    return ""


def _child(value: Any, step: str | int, done: str) -> Any:
    where = done or "the object"
    if isinstance(step, int):
        if isinstance(value, list) and step < len(value):
            return value[step]
        there = f"a list of {len(value)}" if isinstance(value, list) else "no list"
        raise PathError(f"{where} is {there}: there is no [{step}]")
    if isinstance(value, dict) and step in value:
        return value[step]
    there = f"has {', '.join(sorted(value)) or 'no fields'}" if isinstance(value, dict) else (
        "is a list: write [0] for its first item" if isinstance(value, list) else "has no fields"
    )  # fmt: skip
    raise PathError(f"{where} has no {step!r}; it {there}")


def _unquoted(text: str) -> str:
    return text.replace('\\"', '"').replace("\\\\", "\\")


def _fit_list(value: list[Any], budget: int, path: str, offset: int) -> list[Any]:
    shown: list[Any] = []
    left = budget - _PART_CHARACTERS
    for at, item in enumerate(value):
        if at and _size(item) > left:
            more = _ask(path, offset + at)
            return [*shown, f"… [{len(value) - at} of {len(value)} items more; {more}]"]
        shown.append(fit(item, max(left, _PART_CHARACTERS), f"{path}[{offset + at}]"))
        left -= _size(shown[-1]) + 1
    return shown


def _fit_object(value: Document, budget: int, path: str) -> Document:
    """Small fields whole, in favour of the large ones, which share what is left."""
    sizes = {key: _size(part) for key, part in value.items()}
    left = budget - sum(len(key) + 4 for key in value)
    shown: Document = {}
    for number, key in enumerate(sorted(sizes, key=lambda key: sizes[key])):
        share = left // (len(sizes) - number)
        inner = _joined(path, key)
        if sizes[key] <= max(share, _PART_CHARACTERS // 4):
            shown[key] = value[key]
        elif share > _PART_CHARACTERS:
            shown[key] = fit(value[key], share, inner)
        else:
            shown[key] = f"… [{sizes[key]} characters; {_ask(inner, 0)}]"
        left -= _size(shown[key])
    return {key: shown[key] for key in value}


def _ask(path: str, offset: int) -> str:
    wanted = [f"path={path}"] if path else []
    wanted += [f"offset={offset}"] if offset else []
    return f"ask with {' '.join(wanted)}"


def _joined(path: str, key: str) -> str:
    if re.fullmatch(r'[^.\[\]"]+', key):
        return f"{path}.{key}" if path else key
    escaped = key.replace("\\", "\\\\").replace('"', '\\"')
    return f'{path}["{escaped}"]'


def _size(value: Any) -> int:
    return len(orjson.dumps(value))
