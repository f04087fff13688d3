"""What objects say of themselves: their titles, conditions, containers and endings."""

from __future__ import annotations

from kubarium.api.resource import Document
from kubarium.view.elastic import rank_lines
from kubarium.view.explanation import Explanation

# A pod's fact: what its containers wait for, other than their turn.
STUCK = "stuck"
_ON_ITS_WAY = ("ContainerCreating", "PodInitializing")


def title_of(document: Document) -> str:
    """``pod default/web``; kinds are written as kubectl takes them."""
    metadata = document["metadata"]
    namespace = metadata.get("namespace", "")
    name = f"{namespace}/{metadata['name']}" if namespace else metadata["name"]
    return f"{document.get('kind', 'object').lower()} {name}"


def refusal(pod: Document) -> str:
    """What a scheduler has said of a pod for which it found no node; "" if none has."""
    for condition in (pod.get("status") or {}).get("conditions") or ():
        if condition.get("type") == "PodScheduled" and condition.get("status") == "False":
            return str(condition.get("message") or condition.get("reason") or "")
    return ""


def endings(pod: Document) -> tuple[str, ...]:
    """How each container of a pod ended."""
    lines: list[str] = []
    for status in (pod.get("status") or {}).get("containerStatuses") or ():
        ended = (status.get("state") or {}).get("terminated")
        if ended:
            reason = ended.get("reason", "")
            code = ended.get("exitCode")
            lines.append(f"container {status.get('name')}: exit code {code} {reason}".rstrip())
    return tuple(lines)


def on_its_node(pod: Document) -> Explanation:
    """A pod with a node: what its containers wait for, if anything."""
    status, node = pod.get("status") or {}, pod["spec"]["nodeName"]
    lines: list[str] = []
    stuck: list[str] = []
    for kind in ("initContainerStatuses", "containerStatuses"):
        for entry in status.get(kind) or ():
            waiting = (entry.get("state") or {}).get("waiting")
            if waiting:
                text = f"container {entry.get('name')}: {waiting.get('reason', 'waiting')}"
                message = waiting.get("message")
                lines.append(f"{text}: {message}" if message else text)
                if waiting.get("reason") not in _ON_ITS_WAY:
                    stuck.append(text)
    for condition in status.get("conditions") or ():
        if condition.get("type") in ("Ready", "Initialized") and condition.get("status") == "False":
            message = condition.get("message") or condition.get("reason") or ""
            lines.append(f"not {condition['type']}: {message}")
        elif condition.get("type") == "PodResizePending" and condition.get("status") == "True":
            lines.append(f"resize {condition.get('reason')}: {condition.get('message', '')}")
    lines += rank_lines(pod)
    state = "Running" if status.get("phase") == "Running" else "Scheduled"
    facts = {STUCK: tuple(stuck)} if stuck else {}
    return Explanation(
        title_of(pod), state, f"the pod is on node {node}", tuple(lines), facts=facts
    )


def outcome_of(owner: Document) -> str:
    """How a job ended, "" if it has not."""
    for condition in (owner.get("status") or {}).get("conditions") or ():
        if condition.get("type") in ("Complete", "Completed", "Failed") and (
            condition.get("status") == "True"
        ):
            message = condition.get("message") or condition.get("reason") or ""
            return f"{condition['type']}: {message}".rstrip(": ")
    return ""


def by_conditions(document: Document) -> Explanation:
    """What an object says of itself."""
    conditions = (document.get("status") or {}).get("conditions") or ()
    lines = tuple(
        f"{c.get('type')} is {c.get('status')}: {c.get('message') or c.get('reason') or ''}".rstrip(
            ": "
        )
        for c in conditions
    )
    true = {c.get("type") for c in conditions if c.get("status") == "True"}
    state = next(
        (s for s in ("Finished", "Admitted", "Ready", "Available", "Active") if s in true),
        "Pending" if conditions else "Unknown",
    )
    text = "" if lines else "the object has no conditions that say more"
    return Explanation(title_of(document), state, text, lines)
