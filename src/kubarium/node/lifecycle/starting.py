"""How one container is started, and started again after its image, its start or its run failed.

Works on the container's record and on its pod's ``deadlines``; answers with what is to be done.
Source: kubelet's ``kuberuntime_container.go`` (startContainer), ``images/image_manager.go``.
"""

from __future__ import annotations

from kubarium.node.lifecycle import backoff
from kubarium.node.lifecycle import events as ev
from kubarium.node.lifecycle.records import ContainerRecord, Deadlines, State

_IMAGE_REASONS = ("InvalidImageName", "ErrImageNeverPull")
# So long kubelet shows why an image could not be pulled, before it says that it waits.
_PULL_FAILURE_SHOWN_S = 1.0


def begin(record: ContainerRecord) -> ev.StartContainer:
    """The next attempt."""
    record.move(ev.StartContainer)
    if record.ended is not None:
        record.previous, record.ended = record.ended, None
    record.attempt += 1
    record.terminated_sent = record.resizing = False
    return ev.StartContainer(record.plan.name, record.attempt)


def started(
    record: ContainerRecord, container_id: str, image_id: str, now: float
) -> list[ev.Instruction]:
    """Its command runs."""
    name = record.plan.name
    record.move(ev.ContainerStarted)
    record.container_id, record.image_id = container_id, image_id
    record.started_at = now
    record.reason = record.message = ""
    record.image_backoff_s = 0.0
    out: list[ev.Instruction] = [
        ev.Record("Normal", "Created", f"Created container: {name}", name),
        ev.Record("Normal", "Started", f"Started container {name}", name),
    ]
    if ev.POST_START in record.plan.hooks:
        record.in_hook = ev.POST_START
        out.append(ev.RunHook(name, record.attempt, ev.POST_START))
    return out


def holds_up(record: ContainerRecord) -> bool:
    """Whether the containers after it wait: kubelet starts one after the other, and a start is not
    over before its postStart hook is."""
    starts = record.state is State.STARTING and ev.POST_START in record.plan.hooks
    return starts or record.in_post_start


def failed(
    record: ContainerRecord, deadlines: Deadlines, reason: str, message: str, now: float
) -> list[ev.Instruction]:
    """It waits, for the ``reason`` that kubelet has a word for, and is tried again."""
    name = record.plan.name
    record.attempt -= 1
    record.reason, record.message = reason, message
    if reason == "ErrImagePull":
        record.image_backoff_s = backoff.after_failure(record.image_backoff_s)
        deadlines[("retry", name)] = now + record.image_backoff_s
        deadlines[("image", name)] = now + _PULL_FAILURE_SHOWN_S
        text = f'Failed to pull image "{record.plan.spec.get("image", "")}": {message}'
        return [
            ev.Record("Warning", "Failed", text, name),
            ev.Record("Warning", "Failed", "Error: ErrImagePull", name),
        ]
    deadlines[("retry", name)] = now + backoff.CONFIG_RETRY_S
    # Of images kubelet says the reason here: what is wrong has an event of its own.
    text = reason if reason in _IMAGE_REASONS else message
    return [ev.Record("Warning", "Failed", f"Error: {text}", name)]


def pull_waits(record: ContainerRecord) -> list[ev.Instruction]:
    """Of a pull that has failed: it is said now that it waits. [] if it does not any more."""
    if record.state is not State.WAITING or record.reason != "ErrImagePull":
        return []
    name = record.plan.name
    text = f'Back-off pulling image "{record.plan.spec.get("image", "")}"'
    record.reason = "ImagePullBackOff"
    record.message = f"{text}: ErrImagePull: {record.message}"
    return [
        ev.Record("Normal", "BackOff", text, name),
        ev.Record("Warning", "Failed", "Error: ImagePullBackOff", name),
    ]


def back_off(
    record: ContainerRecord, deadlines: Deadlines, pod: str, now: float
) -> list[ev.Instruction]:
    """Of a container that is to run again: its first restart comes at once, then 10 s doubling to
    5 min, counted from the end of the run. ``pod`` as kubelet names it. [] if it need not wait."""
    wait_s = backoff.crash_loop(record, now)
    if wait_s is None:
        return []
    record.backoff_s = wait_s
    if not wait_s:
        return []
    name, ended = record.plan.name, record.ended
    assert ended is not None
    deadlines[("retry", name)] = ended.finished_at + wait_s
    record.reason = "CrashLoopBackOff"
    record.message = (
        f"back-off {backoff.duration(wait_s)} restarting failed container={name} pod={pod}"
    )
    text = f"Back-off restarting failed container {name} in pod {pod}"
    return [ev.Record("Warning", "BackOff", text, name)]
