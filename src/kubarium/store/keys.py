"""An ordered set of strings: what the store finds its pages in.

A list of sorted buckets, as in sortedcontainers' SortedList: a look-up is two binary searches, an
insertion moves at most one bucket's pointers.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Iterator

from kubarium.store.limits import KEYS_PER_BUCKET

# Greater than any character of a key, so that ``prefix + END`` ends the range of a prefix.
END = "\U0010ffff"


class SortedKeys:
    """Distinct strings in code point order. Adding one twice is a caller's mistake."""

    __slots__ = ("_buckets", "_firsts", "_size")

    def __init__(self) -> None:
        self._buckets: list[list[str]] = []
        self._firsts: list[str] = []  # _firsts[i] == _buckets[i][0]
        self._size = 0

    def __len__(self) -> int:
        return self._size

    def add(self, key: str) -> None:
        """Insert ``key``."""
        self._size += 1
        if not self._buckets:
            self._buckets.append([key])
            self._firsts.append(key)
            return
        at = self._bucket_of(key)
        bucket = self._buckets[at]
        insort(bucket, key)
        self._firsts[at] = bucket[0]
        if len(bucket) > KEYS_PER_BUCKET:
            self._split(at)

    def remove(self, key: str) -> None:
        """Take ``key`` out; KeyError if it is not there."""
        at = self._bucket_of(key) if self._buckets else -1
        bucket = self._buckets[at] if at >= 0 else []
        index = bisect_left(bucket, key)
        if index == len(bucket) or bucket[index] != key:
            raise KeyError(key)
        del bucket[index]
        self._size -= 1
        if bucket:
            self._firsts[at] = bucket[0]
        else:
            del self._buckets[at], self._firsts[at]

    def between(self, low: str, high: str) -> Iterator[str]:
        """Keys with ``low <= key < high``, in order. Not to be used across a change."""
        if not self._buckets:
            return
        at = self._bucket_of(low)
        index = bisect_left(self._buckets[at], low)
        for bucket in self._buckets[at:]:
            end = len(bucket) if bucket[-1] < high else bisect_left(bucket, high)
            yield from bucket[index:end]
            if end < len(bucket):
                return
            index = 0

    def count(self, low: str, high: str) -> int:
        """How many keys ``between`` would give, without visiting them."""
        return max(0, self._rank(high) - self._rank(low))

    def check(self) -> None:
        """Raise AssertionError if the order or the sizes are wrong."""
        flat = [key for bucket in self._buckets for key in bucket]
        assert flat == sorted(set(flat)), "keys are out of order or double"
        assert len(flat) == self._size, "size differs from the keys held"
        assert self._firsts == [bucket[0] for bucket in self._buckets], "stale first keys"

    def _bucket_of(self, key: str) -> int:
        """The bucket that holds ``key`` or would hold it."""
        at = bisect_left(self._firsts, key)
        if at < len(self._firsts) and self._firsts[at] == key:
            return at
        return max(0, at - 1)

    def _rank(self, key: str) -> int:
        if not self._buckets:
            return 0
        at = self._bucket_of(key)
        return sum(map(len, self._buckets[:at])) + bisect_left(self._buckets[at], key)

    def _split(self, at: int) -> None:
        bucket = self._buckets[at]
        half = len(bucket) // 2
        self._buckets.insert(at + 1, bucket[half:])
        self._firsts.insert(at + 1, bucket[half])
        del bucket[half:]
