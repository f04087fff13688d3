"""Chance as a value: uids, name suffixes and jitter all come from one seeded source.

With a seed the whole run replays; ``cluster`` seeds from the operating system in live mode.
"""

from __future__ import annotations

import random
import uuid

# Kubernetes' alphabet for generated names: no vowels (no words), nothing that looks like another.
SUFFIX_ALPHABET = "bcdfghjklmnpqrstvwxz2456789"


class Chance:
    """A seeded source of identifiers and jitter. Never for secrets."""

    def __init__(self, seed: int | str | None = None) -> None:
        """``seed`` None draws one from the operating system."""
        self._random = random.Random(seed)

    def uid(self) -> str:
        """A version 4 UUID, as ``metadata.uid`` holds it."""
        return str(uuid.UUID(int=self._random.getrandbits(128), version=4))

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
