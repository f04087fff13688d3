"""Append-only, versioned, watchable storage of JSON documents: in memory, or on SQLite.

It knows keys, values, revisions and watches; it knows nothing of kinds, users or HTTP.
"""

from kubarium.store.log import (
    CasError,
    Change,
    MemoryStore,
    RangeResult,
    Record,
    Store,
    Subscription,
)

__all__ = ["CasError", "Change", "MemoryStore", "RangeResult", "Record", "Store", "Subscription"]
