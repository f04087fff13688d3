"""Containers as processes: a zygote that forks them, an init for each, and the asyncio side.

The modules ``zygote``, ``init``, ``rootfs`` and ``linux`` run in the zygote's own small
interpreter: they import nothing but the standard library.
"""
