"""Annotations of ours that cannot be read: what is to be written instead. Pure.

A program that reads one goes by its default where the value is none, so whoever writes it has to
be told then and there.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

import orjson

from kubarium.api.resource import Document
from kubarium.base.duration import duration_s
from kubarium.base.quantity import QuantityError, parse_quantity
from kubarium.base.quoted import quoted
from kubarium.view.locality import CACHED, LOCALITY, PREFERRED, REQUIRED
from kubarium.view.shutdown import ANNOTATION as SHUTDOWN
from kubarium.view.shutdown import CONFIGURED

PREFIX = "kubarium.dev/"


@dataclass(frozen=True, slots=True)
class _Form:
    """``reads`` is False, or raises ValueError, for what is not ``wanted``."""

    wanted: str
    reads: Callable[[str], bool]


def _word(*words: str) -> _Form:
    return _Form(" or ".join(words), lambda text: text.strip().lower() in words)


def _number(least: int, most: int, kind: Callable[[str], float]) -> _Form:
    return _Form(f"a number from {least} to {most}", lambda text: least <= kind(text) <= most)


def _duration(*words: str) -> _Form:
    wanted = " or ".join((*words, "a duration, such as 90s or 1h30m"))
    return _Form(wanted, lambda text: text in words or duration_s(text) >= 0)


def _is_report(text: str) -> bool:
    given = orjson.loads(text)
    if not isinstance(given, dict):
        return False
    return all(size is None or parse_quantity(size) >= 0 for size in given.values())


_QUANTITY = _Form("a quantity, such as 500m or 2Gi", lambda text: parse_quantity(text) >= 0)

_OF_PODS = {
    LOCALITY: _word(REQUIRED, PREFERRED),
    f"{PREFIX}start-delay": _duration(),
    f"{PREFIX}run-duration": _duration("never"),
    f"{PREFIX}exit-code": _number(0, 255, int),
    f"{PREFIX}oom": _word("true", "false"),
    f"{PREFIX}gpu-utilization": _number(0, 100, float),
    f"{PREFIX}cpu-usage": _QUANTITY,
    f"{PREFIX}memory-usage": _QUANTITY,
    f"{PREFIX}ephemeral-storage-usage": _QUANTITY,
    f"{PREFIX}pids": _QUANTITY,
}

_OF_NODES = {
    SHUTDOWN: _duration(CONFIGURED),
    CACHED: _Form(
        'a JSON object of names with sizes, such as {"dataset/web": "150Gi"}', _is_report
    ),
}


def unreadable(document: Document, kind: str) -> Iterator[str]:
    """What is wrong with the annotations of an object, and of the pods that it is a template of."""
    if kind == "Node":
        yield from _wrong(document, "", _OF_NODES)
        return
    for path, template in _templates(document, kind):
        yield from _wrong(template, path, _OF_PODS)


def _templates(document: Document, kind: str) -> Iterator[tuple[str, Document]]:
    """What pods are, or are made from, each with its path."""
    spec = document.get("spec") or {}
    if kind == "Pod":
        yield "", document
    elif kind == "CronJob":
        for path, template in _templates(spec.get("jobTemplate") or {}, "Job"):
            yield f"spec.jobTemplate.{path}", template
    elif kind == "JobSet":
        for number, job in enumerate(spec.get("replicatedJobs") or ()):
            for path, template in _templates(job.get("template") or {}, "Job"):
                yield f"spec.replicatedJobs[{number}].template.{path}", template
    else:
        yield "spec.template.", spec.get("template") or {}


def _wrong(document: Document, path: str, forms: Mapping[str, _Form]) -> Iterator[str]:
    annotations = (document.get("metadata") or {}).get("annotations") or {}
    for name, value in annotations.items():
        form = forms.get(name) if name.startswith(PREFIX) else None
        if form is not None and not _is_read(form, value):
            where = f"{path}metadata.annotations[{name}]"
            yield f"{where}: {quoted(value)} cannot be read: write {form.wanted}"


def _is_read(form: _Form, value: object) -> bool:
    try:
        return isinstance(value, str) and form.reads(value)
    except (ValueError, QuantityError):
        return False
