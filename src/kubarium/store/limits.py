"""Named limits of the store, each with its reason."""

from __future__ import annotations

# Seconds for which a past revision stays readable. The API server's watch cache promises at least
# 75 s to a client that reconnects; etcd under it is compacted every 300 s, which is what slow
# readers of a long list (one page at a time) have come to rely on.
HISTORY_S = 300.0

# Changes kept at most, whatever their age: it bounds memory when a simulation writes thousands of
# objects a second. An informer that is this far behind lists again, which is cheaper by then.
HISTORY_CHANGES = 20_000

# How far the history may outgrow HISTORY_CHANGES before it is cut back, so that the cost of
# cutting is spread over many writes.
HISTORY_SLACK = 2_000

# Keys in one bucket of the ordered index before it is split in two: near the point where moving
# pointers within a bucket costs as much as finding it.
KEYS_PER_BUCKET = 1_024

# Bytes of a batch that one SQLite transaction commits at most, so that a burst of large objects
# does not keep the first of its writers waiting for the last.
BATCH_BYTES = 8 * 1024 * 1024

# Seconds that opening waits for the lock of a store whose owner is just ending.
LOCK_WAIT_S = 1.0
