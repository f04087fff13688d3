"""What of /proc and /sys containers must not see or change: the kernel shows one machine to all.

The lists are what Kubernetes' runtimes hide and protect (procMount Default).
"""

from __future__ import annotations

import contextlib
import os

from kubarium.node.runtimes.process import linux

MASKED = (
    "/proc/asound",
    "/proc/acpi",
    "/proc/interrupts",
    "/proc/kcore",
    "/proc/keys",
    "/proc/latency_stats",
    "/proc/timer_list",
    "/proc/timer_stats",
    "/proc/sched_debug",
    "/proc/scsi",
    "/sys/firmware",
    "/sys/devices/virtual/powercap",
)
READ_ONLY = ("/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger")


def protect(root: str) -> None:
    """Below ``root``, with /proc and /sys mounted and /dev/null there. In a user namespace some of
    it is refused, where the kernel refuses the rest too."""
    for path in MASKED:
        place = root + path
        with contextlib.suppress(OSError):
            if os.path.isdir(place):
                linux.mount("tmpfs", place, "tmpfs", linux.MS_RDONLY, "size=0")
            elif os.path.exists(place):
                linux.mount(f"{root}/dev/null", place, None, linux.MS_BIND)
    flags = linux.MS_NOSUID | linux.MS_NODEV | linux.MS_NOEXEC
    for path in READ_ONLY:
        place = root + path
        with contextlib.suppress(OSError):
            linux.mount(place, place, None, linux.MS_BIND | linux.MS_REC)
            linux.mount(
                None, place, None, linux.MS_REMOUNT | linux.MS_BIND | linux.MS_RDONLY | flags
            )
