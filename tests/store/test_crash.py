"""kill -9 at any moment loses no acknowledged write."""

import os
import random
import select
import signal
import subprocess
import sys
import time

import pytest

from kubarium.store.sqlite import SqliteStore

ROUNDS = 25
BUDGET_S = 25.0

# Prints "<verb> <key> <revision>" only after durable(): what it printed, it has promised.
CHILD = """
import asyncio, sys
from kubarium.store.sqlite import SqliteStore

store = SqliteStore.open(sys.argv[1])
turn = sys.argv[2]
say = lambda *words: (sys.stdout.write(" ".join(map(str, words)) + "\\n"), sys.stdout.flush())
say("open")

async def writer(number):
    for step in range(100000):
        key = f"/core/pods/ns{number}/r{turn}-{step}"
        revision = store.put(key, {"payload": key * 20}, 0)
        if step % 50 == 49:
            store.compact(max(store.compacted, store.revision - 100))
        await store.durable()
        say("put", key, revision)
        if step % 3 == 2:
            revision = store.delete(key, revision)
            await store.durable()
            say("del", key, revision)

async def main():
    await asyncio.gather(*(writer(number) for number in range(4)))

asyncio.run(main())
"""


def run_until_killed(path, turn, delay_s):
    """The whole lines that the child printed before it died."""
    child = subprocess.Popen(
        [sys.executable, "-c", CHILD, str(path), str(turn)], stdout=subprocess.PIPE
    )
    data, deadline = b"", None
    try:
        while deadline is None or time.monotonic() < deadline:
            left = 20.0 if deadline is None else max(0.0, deadline - time.monotonic())
            if select.select([child.stdout], [], [], left)[0]:
                chunk = os.read(child.stdout.fileno(), 1 << 16)
                assert chunk, "the writer ended by itself"
                data += chunk
                deadline = deadline or time.monotonic() + delay_s
            else:
                assert deadline is not None, "the writer did not start"
    finally:
        child.send_signal(signal.SIGKILL)
        data += child.stdout.read()
        child.wait()
        child.stdout.close()
    return data.decode().rpartition("\n")[0].splitlines()


@pytest.mark.timeout(60)
def test_every_acknowledged_write_survives_kill_9(tmp_path):
    path = tmp_path / "store.db"
    chance = random.Random(20261123)
    alive, gone, newest, total = {}, {}, 1, 0
    began = time.monotonic()
    for turn in range(ROUNDS):
        lines = run_until_killed(path, turn, chance.uniform(0.0, 0.15))
        for verb, *rest in map(str.split, lines):
            if verb == "open":
                continue
            key, revision = rest[0], int(rest[1])
            newest, total = max(newest, revision), total + 1
            if verb == "put":
                alive[key] = revision
            else:
                alive.pop(key, None)
                gone[key] = revision
        store = SqliteStore.open(path)
        store.check()
        assert store.revision >= newest
        for key, revision in alive.items():
            record = store.get(key)
            if record is None:  # its deletion was written, but the answer was not yet out
                assert store.revision > revision
                assert int(key.rpartition("-")[2]) % 3 == 2
                continue
            assert record.mod_revision == record.create_revision == revision
            assert record.value == {"payload": key * 20}
        assert not any(store.get(key) for key in gone)
        newest = store.revision
        store.close()
        if time.monotonic() - began > BUDGET_S:
            break
    assert turn >= 9, "too slow to have shown anything"
    assert total > 200
