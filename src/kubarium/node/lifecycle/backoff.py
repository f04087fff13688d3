"""How long what has failed waits before it is tried again. Pure; seconds throughout.

Source: kubelet's ``MaxContainerBackOff`` and ``backOffPeriod`` (crashes, image pulls), its pod
workers (volumes and sandboxes) and ``kuberuntime_manager.go`` (doBackOff).
"""

from __future__ import annotations

from kubarium.node.lifecycle.records import LOST, ContainerRecord

# A run longer than twice the maximum starts afresh.
CRASH_BACKOFF_S = 10.0
CRASH_BACKOFF_MAX_S = 300.0
# kubelet retries volumes and sandboxes from half a second up to about two minutes.
PREPARE_BACKOFF_S = 0.5
PREPARE_BACKOFF_MAX_S = 122.0
# A configuration error is looked at again with every sync of the pod.
CONFIG_RETRY_S = 10.0


def after_prepare(before_s: float) -> float:
    """The next wait for volumes and sandbox, after one of ``before_s`` (0: the first)."""
    return min(max(before_s * 2, PREPARE_BACKOFF_S), PREPARE_BACKOFF_MAX_S)


def after_failure(before_s: float) -> float:
    """The next wait for an image or after a crash, after one of ``before_s`` (0: the first)."""
    return min(max(before_s * 2, CRASH_BACKOFF_S), CRASH_BACKOFF_MAX_S)


def crash_loop(record: ContainerRecord, now: float) -> float | None:
    """How long an ended container waits from its end on; 0: it starts afresh. None: it does not
    wait (its first end, or none of its own doing), or does already."""
    ended = record.ended
    assert ended is not None
    if record.reason == "CrashLoopBackOff" or record.attempt == 0:
        return None
    if ended.reason == LOST or record.resizing:
        return None
    if now - (ended.started_at or now) > 2 * CRASH_BACKOFF_MAX_S:
        return 0.0
    return after_failure(record.backoff_s)


def duration(seconds: float) -> str:
    """Go's rendering of a duration: 10s, 1m20s, 5m0s."""
    minutes, rest = divmod(int(seconds), 60)
    return f"{minutes}m{rest}s" if minutes else f"{rest}s"
