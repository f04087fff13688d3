"""Chance as a value: uids, name suffixes and jitter all come from one seeded source.

With a seed the whole run replays; ``cluster`` seeds from the operating system in live mode.
"""

from __future__ import annotations

import random

# Kubernetes' alphabet for generated names: no vowels (no words), nothing that looks like another.
SUFFIX_ALPHABET = "bcdfghjklmnpqrstvwxz2456789"

# The bits of a UUID that say how it was made (RFC 9562, 4.1 and 4.2), and those of version 4.
_VERSION_AND_VARIANT = 0xF000 << 64 | 0xC000 << 48
_VERSION_4 = 0x4000 << 64 | 0x8000 << 48


class Chance:
    """A seeded source of identifiers and jitter. Never for secrets."""

    def __init__(self, seed: int | str | None = None) -> None:
        """``seed`` None draws one from the operating system."""
        self._random = random.Random(seed)

    def uid(self) -> str:
        """A version 4 UUID, as ``metadata.uid`` holds it."""
        bits = self._random.getrandbits(128) & ~_VERSION_AND_VARIANT | _VERSION_4
        text = f"{bits:032x}"
        return f"{text[:8]}-{text[8:12]}-{text[12:16]}-{text[16:20]}-{text[20:]}"

    def suffix(self, length: int = 5) -> str:
        """The random tail of a generated name (upstream: apiserver storage/names, 5 characters)."""
        return "".join(self._random.choices(SUFFIX_ALPHABET, k=length))

    def uniform(self, low: float, high: float) -> float:
        """A float in [low, high]."""
        return self._random.uniform(low, high)

    def below(self, limit: int) -> int:
        """An integer in [0, limit)."""
        return self._random.randrange(limit)

    def fork(self, label: str) -> Chance:
        """An independent source whose draws depend on this one's seed and ``label`` only once."""
        return Chance(f"{self._random.getrandbits(64)}/{label}")
