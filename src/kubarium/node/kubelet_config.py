"""The fields of a KubeletConfiguration that our nodes heed, by their upstream names.

Source: ``k8s.io/kubelet/config/v1beta1``; thresholds as in ``pkg/kubelet/eviction/helpers.go``.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from fractions import Fraction
from typing import Any, TypeVar

from kubarium.api.resource import Document
from kubarium.base.duration import duration_s
from kubarium.base.errors import ConfigError
from kubarium.base.quantity import parse_quantity
from kubarium.node.lifecycle.plan import priority_of
from kubarium.node.runner import CONFIG_SOURCE

T = TypeVar("T")

MEMORY, NODE_FS, NODE_INODES = "memory.available", "nodefs.available", "nodefs.inodesFree"
IMAGE_FS, IMAGE_INODES, PIDS = "imagefs.available", "imagefs.inodesFree", "pid.available"
SIGNALS = (MEMORY, NODE_FS, NODE_INODES, IMAGE_FS, IMAGE_INODES, PIDS)
# A kubelet has a disk to itself and evicts at 10 % of it; ours share it with whatever else is on
# the machine, where a disk that is 90 % full is nothing special.
DEFAULT_HARD = {MEMORY: "100Mi", NODE_FS: "500Mi", NODE_INODES: "5%"}
DEFAULT_PIDS_LIMIT = 4096
CRITICAL_PRIORITY = 2_000_000_000


@dataclass(frozen=True, slots=True)
class Amount:
    """A quantity, or a share of a capacity."""

    absolute: int = 0
    share: Fraction | None = None

    def of(self, capacity: int) -> int:
        return self.absolute if self.share is None else int(capacity * self.share)


@dataclass(frozen=True, slots=True)
class Threshold:
    """Less of ``signal`` than this is pressure; ``grace_s`` 0 is a hard threshold."""

    signal: str
    value: Amount
    grace_s: float = 0.0
    minimum_reclaim: Amount = Amount()


@dataclass(frozen=True, slots=True)
class ShutdownGroup:
    """Pods of at least this priority get so long at a node's shutdown."""

    priority: int
    period_s: float


@dataclass(frozen=True, slots=True)
class ImageCollection:
    """When images go that nobody uses: above ``high_percent`` of the disk until ``low_percent`` is
    reached, but none that was used within ``minimum_age_s``; and all that were not used for
    ``maximum_age_s`` (0: none for that alone)."""

    high_percent: int = 85
    low_percent: int = 80
    minimum_age_s: float = 120.0
    maximum_age_s: float = 0.0


@dataclass(frozen=True, slots=True)
class KubeletConfig:
    """What a pool's ``kubelet`` says. ``pids_limit`` None is as many as there are."""

    thresholds: tuple[Threshold, ...] = ()
    max_pod_grace_s: float = 0.0
    transition_s: float = 300.0
    shutdown: tuple[ShutdownGroup, ...] = ()
    static_pod_path: str = ""
    pids_limit: int | None = DEFAULT_PIDS_LIMIT
    images: ImageCollection = ImageCollection()
    # Names, or prefixes that end in "*", of settings that pods may ask for beside the safe ones.
    unsafe_sysctls: tuple[str, ...] = ()


class FieldError(ConfigError):
    """``path`` leads to the field that is wrong."""

    def __init__(self, path: tuple[str | int, ...], message: str) -> None:
        super().__init__(message)
        self.path = path


def read_amount(text: object) -> Amount:
    """``500Mi`` or ``10%``; ValueError says what is wrong."""
    if isinstance(text, str) and text.endswith("%"):
        with contextlib.suppress(ValueError, ZeroDivisionError):
            share = Fraction(text.removesuffix("%")) / 100
            if 0 <= share <= 1:
                return Amount(share=share)
        raise ValueError(f"{text!r} must be from 0% to 100%")
    value = parse_quantity(text)
    if value < 0:
        raise ValueError(f"{text!r} must not be negative")
    return Amount(int(value))


def read_kubelet_config(given: Mapping[str, Any]) -> KubeletConfig:
    """FieldError names what cannot be read."""
    hard = dict(given.get("evictionHard", DEFAULT_HARD))
    if given.get("mergeDefaultEvictionSettings"):
        hard = DEFAULT_HARD | hard
    reclaim = _by_signal(given, "evictionMinimumReclaim", read_amount)
    thresholds = [
        Threshold(signal, value, 0.0, reclaim.get(signal, Amount()))
        for signal, value in _amounts({"evictionHard": hard}, "evictionHard").items()
    ]
    periods = _by_signal(given, "evictionSoftGracePeriod", _seconds)
    for signal, value in _amounts(given, "evictionSoft").items():
        if signal not in periods:
            raise FieldError(
                ("evictionSoft", signal),
                "grace period must be specified for the soft eviction threshold "
                f"{signal}: add it to evictionSoftGracePeriod",
            )
        thresholds.append(Threshold(signal, value, periods[signal], reclaim.get(signal, Amount())))
    pids = given.get("podPidsLimit", DEFAULT_PIDS_LIMIT)
    return KubeletConfig(
        tuple(thresholds),
        float(given.get("evictionMaxPodGracePeriod", 0)),
        _duration(given, "evictionPressureTransitionPeriod", "5m"),
        _shutdown(given),
        given.get("staticPodPath", ""),
        pids if pids > 0 else None,
        _images(given),
        tuple(given.get("allowedUnsafeSysctls") or ()),
    )


def _images(given: Mapping[str, Any]) -> ImageCollection:
    defaults = ImageCollection()
    high = given.get("imageGCHighThresholdPercent", defaults.high_percent)
    low = given.get("imageGCLowThresholdPercent", defaults.low_percent)
    least_s = _duration(given, "imageMinimumGCAge", f"{defaults.minimum_age_s:g}s")
    most_s = _duration(given, "imageMaximumGCAge", "0s")
    if low >= high:
        field = next(
            f for f in ("imageGCLowThresholdPercent", "imageGCHighThresholdPercent") if f in given
        )
        raise FieldError((field,), f"{low} (low) must be less than {high} (high)")
    if most_s and most_s <= least_s:
        text = f"{most_s:g}s must be more than imageMinimumGCAge, which is {least_s:g}s"
        raise FieldError(("imageMaximumGCAge",), text)
    return ImageCollection(high, low, least_s, most_s)


def strictest(configs: Iterable[ImageCollection]) -> ImageCollection:
    """Of nodes that share one disk: what frees the most."""
    found = list(configs)
    return ImageCollection(
        min(config.high_percent for config in found),
        min(config.low_percent for config in found),
        min(config.minimum_age_s for config in found),
        min((c.maximum_age_s for c in found if c.maximum_age_s), default=0.0),
    )


def _by_signal(given: Mapping[str, Any], field: str, reader: Callable[[Any], T]) -> dict[str, T]:
    found = {}
    for signal, text in given.get(field, {}).items():
        if signal not in SIGNALS:
            text = f"unknown eviction signal {signal!r}; known: {', '.join(SIGNALS)}"
            raise FieldError((field, signal), text)
        found[signal] = _read(reader, text, (field, signal))
    return found


def _amounts(given: Mapping[str, Any], field: str) -> dict[str, Amount]:
    """Without those of zero: never less is there, so that they turn a threshold off."""
    found = _by_signal(given, field, read_amount)
    return {signal: amount for signal, amount in found.items() if amount.absolute or amount.share}


def _shutdown(given: Mapping[str, Any]) -> tuple[ShutdownGroup, ...]:
    """Groups from the lowest priority. Both ways of saying it exclude each other."""
    groups = given.get("shutdownGracePeriodByPodPriority")
    total_s = _duration(given, "shutdownGracePeriod", "0s")
    critical_s = _duration(given, "shutdownGracePeriodCriticalPods", "0s")
    if groups and (total_s or critical_s):
        raise FieldError(
            ("shutdownGracePeriodByPodPriority",),
            "cannot be given beside shutdownGracePeriod and shutdownGracePeriodCriticalPods",
        )
    if groups:
        found = [
            ShutdownGroup(group["priority"], float(group["shutdownGracePeriodSeconds"]))
            for group in groups
        ]
        return tuple(sorted(found, key=lambda group: group.priority))
    if critical_s > total_s:
        raise FieldError(
            ("shutdownGracePeriodCriticalPods",),
            f"{critical_s:g}s is more than shutdownGracePeriod, which is {total_s:g}s",
        )
    if not total_s:
        return ()
    from_critical = ShutdownGroup(CRITICAL_PRIORITY, critical_s)
    return (ShutdownGroup(0, total_s - critical_s), from_critical)


def _seconds(text: object) -> float:
    return duration_s(str(text))


def _duration(given: Mapping[str, Any], field: str, default: str) -> float:
    return _read(_seconds, given.get(field, default), (field,))


def _read(reader: Callable[[Any], T], text: object, path: tuple[str | int, ...]) -> T:
    try:
        return reader(text)
    except ValueError as error:
        raise FieldError(path, f"cannot read {text!r}: {error}") from None


def is_critical(pod: Document) -> bool:
    """Pods that a node does not do without: static ones, and those of system priority."""
    source = (pod["metadata"].get("annotations") or {}).get(CONFIG_SOURCE, "api")
    return source != "api" or priority_of(pod) >= CRITICAL_PRIORITY
