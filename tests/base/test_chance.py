"""Identifiers from a seed."""

import random
import uuid

from kubarium.base.chance import Chance


def test_uids_are_the_version_4_uuids_of_the_seeds_bits():
    chance, bits = Chance(7), random.Random(7)
    for _ in range(200):
        assert chance.uid() == str(uuid.UUID(int=bits.getrandbits(128), version=4))
