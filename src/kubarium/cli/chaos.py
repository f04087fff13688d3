"""`kubarium chaos`: makes a Fault, shows what it does, and takes it away again."""

from __future__ import annotations

import asyncio
import contextlib
from pathlib import Path
from typing import Any

from rich.markup import escape

from kubarium.api import selectors
from kubarium.api.kinds import EVENTS, FAULTS
from kubarium.api.resource import Document
from kubarium.base.errors import ApiError, ConfigError
from kubarium.cli.connection import asking
from kubarium.cli.console import out
from kubarium.client.http import HttpClient
from kubarium.view.faults import NODE_ACTIONS, POD_ACTIONS, UnheededField, plan_of

LOOK_S = 0.2


def inject(
    action: str,
    selector: str,
    spec: dict[str, Any],
    namespace: str,
    name: str,
    kubeconfig: Path | None,
    context: str,
) -> None:
    """Create the Fault and follow it to its end."""
    fault = fault_document(action, selector, spec)
    asking(name, kubeconfig, context, lambda client: _follow(client, fault, namespace))


def fault_document(action: str, selector: str, spec: dict[str, Any]) -> Document:
    """The Fault that the options describe; ConfigError names what is wrong with them."""
    names = {_dashed(known): known for known in (*POD_ACTIONS, *NODE_ACTIONS)}
    if action.lower() not in names:
        raise ConfigError(f"action {action!r}: write one of {', '.join(names)}")
    given = _given(spec)
    if "peers" in given:
        given["peers"] = _selector("" if given["peers"] == "*" else given["peers"], "--peers")
    wanted = {"action": names[action.lower()], "selector": _selector(selector), **given}
    fault: Document = {
        "apiVersion": FAULTS.api_version,
        "kind": FAULTS.kind,
        "metadata": {"generateName": f"{action.lower()}-"},
        "spec": wanted,
    }
    try:
        plan_of(fault)
    except UnheededField as error:
        option = _OPTIONS.get(error.field, f"--{error.field}")
        others = ", ".join(map(_dashed, error.heeded_by))
        raise ConfigError(
            f"{option} {error.value}: {_dashed(error.action)} does nothing with it; leave it out, "
            f"or use it with {others}"
        ) from None
    except ValueError as error:
        raise ConfigError(str(error)) from None
    return fault


# Options that are not called as the field of a Fault that they set.
_OPTIONS = {"durationSeconds": "--duration"}


def _dashed(action: str) -> str:
    """``OutOfMemory`` as it is typed: out-of-memory."""
    return "".join(f"-{c.lower()}" if c.isupper() else c for c in action).lstrip("-")


def _selector(text: str, option: str = "--selector") -> Document:
    try:
        clauses = selectors.parse_labels(text).requirements if text else ()
    except ApiError as error:
        raise ConfigError(f"{option} {text!r}: {error}") from None
    expressions = [
        {"key": c.key, "operator": _OPERATORS[c.operator], "values": list(c.values)}
        for c in clauses
    ]
    return {"matchExpressions": expressions} if expressions else {}


_OPERATORS = {
    selectors.IN: "In",
    selectors.EQUALS: "In",
    selectors.DOUBLE_EQUALS: "In",
    selectors.NOT_IN: "NotIn",
    selectors.NOT_EQUALS: "NotIn",
    selectors.EXISTS: "Exists",
    selectors.ABSENT: "DoesNotExist",
}


# Of the options whose default is not zero.
_ZERO_SAYS_SOMETHING = ("rank", "amount", "times")


def _given(spec: dict[str, Any]) -> dict[str, Any]:
    """What was asked for: options left alone say nothing."""
    found: dict[str, Any] = {}
    for key, value in spec.items():
        kept = _given(value) if isinstance(value, dict) else value
        if kept not in (None, "", 0, {}) or (key in _ZERO_SAYS_SOMETHING and kept == 0):
            found[key] = kept
    return found


async def _follow(client: HttpClient, fault: Document, namespace: str) -> None:
    made = await client.create(FAULTS, fault, namespace)
    name = made["metadata"]["name"]
    out.print(f"fault/{name}: {fault['spec']['action']}")
    told, message, told_end = 0, "", False
    refused: dict[str, None] = {}
    try:
        while True:
            status = (await client.get(FAULTS, name, namespace)).get("status") or {}
            history = [e for e in status.get("history") or () if e["number"] >= told]
            for entry in history:
                told = entry["number"] + 1
                out.print(f"  {told}. {entry['at']} {entry['target']}")
            if status.get("message") and status["message"] != message:
                message = status["message"]
                out.print(f"  {message}", markup=False)
            for text in await _refusals(client, namespace, made, status, refused):
                out.print(f"  [yellow]not injected[/]: {escape(text)}")
            if status.get("phase") == "Invalid":
                raise ConfigError(f"fault/{name}: {message}")
            if status.get("phase") == "Completed":
                return
            if status.get("phase") == "InForce" and not told_end:
                told_end = True
                lasting = made["spec"].get("durationSeconds")
                until = f"for {lasting:g} s" if lasting else "until Ctrl-C"
                out.print(f"  in force {until}; then it is undone", markup=False)
            await asyncio.sleep(LOOK_S)
    finally:
        with contextlib.suppress(ApiError):
            await client.delete(FAULTS, name, namespace)


async def _refusals(
    client: HttpClient, namespace: str, fault: Document, status: Document, seen: dict[str, None]
) -> list[str]:
    """What nodes say of the Fault's victims: that it cannot be done there. Each once."""
    if not status.get("history"):
        return []
    victims = {e["target"].partition("/")[2] for e in status["history"]}
    began = fault["metadata"]["creationTimestamp"]
    found = []
    selector = "reason=FaultNotInjected"
    for event in (await client.list(EVENTS, namespace, field_selector=selector)).items:
        uid, name = event["metadata"]["uid"], event["involvedObject"]["name"]
        if uid not in seen and name in victims and (event.get("lastTimestamp") or "") >= began:
            seen[uid] = None
            found.append(f"{name}: {event['message']}")
    return found
