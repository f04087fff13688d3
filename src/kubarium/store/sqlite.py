"""The store on disk: an append-only log in one SQLite file, written behind the memory.

What an acknowledged write means: ``await store.durable()`` has returned, so the rows are in
SQLite's write-ahead log and fsynced (``synchronous=FULL``). Nothing may leave the process before.

One daemon thread commits. Everything written while a commit is under way forms the next batch
(group commit), in the order of revisions, so that what survives a crash is always a prefix of
what was written: there is no revision without those before it.

Rows of the ``log`` table are changes. Compaction to revision C deletes the rows up to C except the
last put of every key that is alive at C; so the rows up to C *are* the state at C, and those
after it are the history from which watches resume, also after a restart.
"""

from __future__ import annotations

import asyncio
import os
import sqlite3
import threading
from collections import deque
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import orjson

from kubarium.base.errors import ApiError, ConfigError, bad_request
from kubarium.store.limits import BATCH_BYTES, LOCK_WAIT_S
from kubarium.store.log import DELETE, PUT, Change, Record, Store

APPLICATION_ID = 0x4B554241  # "KUBA", in the header of the file
SCHEMA_VERSION = 1

_SCHEMA = f"""
BEGIN EXCLUSIVE;
CREATE TABLE log (
    revision INTEGER PRIMARY KEY,
    key TEXT NOT NULL,
    deleted INTEGER NOT NULL,
    create_revision INTEGER NOT NULL,
    value BLOB
);
CREATE TABLE compaction (revision INTEGER NOT NULL);
INSERT INTO compaction VALUES (0);
PRAGMA application_id = {APPLICATION_ID};
PRAGMA user_version = {SCHEMA_VERSION};
COMMIT;
"""
_INSERT = "INSERT INTO log (revision, key, deleted, create_revision, value) VALUES (?, ?, ?, ?, ?)"

# revision, key, deleted, create_revision, JSON (None: a deletion that shows the last value put)
_Row = tuple[int, str, bool, int, bytes | None]
_Waiter = tuple[int, asyncio.AbstractEventLoop, "asyncio.Future[None]"]


class _Forget(NamedTuple):
    """A compaction in the queue, behind the rows that it may delete."""

    compacted: int
    dead: list[int]


class SqliteStore(Store):
    """A store that survives a kill -9. Open one with :meth:`open`, end it with :meth:`close`."""

    def __init__(self, path: Path, connection: sqlite3.Connection) -> None:
        super().__init__()
        self.path = path
        self._connection = connection
        # Guards what the writer thread shares with the rest: queue, waiters, committed, failure.
        self._wake = threading.Condition()
        self._queue: deque[_Row | _Forget] = deque()
        self._waiters: deque[_Waiter] = deque()
        self._closing = False
        self._failure = ""
        self._thread: threading.Thread | None = None
        compacted = int(connection.execute("SELECT revision FROM compaction").fetchone()[0])
        self._restore(compacted, self._stored_changes())
        self._committed = self._revision

    @staticmethod
    def open(path: str | Path) -> SqliteStore:
        """Open or create the log at ``path`` (mode 0600), for this process alone.

        ConfigError, with the way out, if it is not ours, newer than we know, damaged, or in use.
        """
        path = Path(path)
        try:
            path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            _create(path)
            connection = sqlite3.connect(
                path, timeout=LOCK_WAIT_S, isolation_level=None, check_same_thread=False
            )
        except (OSError, sqlite3.Error) as error:
            raise ConfigError(f"{path}: cannot open the cluster's store: {error}") from error
        try:
            _prepare(path, connection)
            return SqliteStore(path, connection)
        except sqlite3.Error as error:
            connection.close()
            raise _explain(path, error) from error
        except BaseException:
            connection.close()
            raise

    async def durable(self) -> None:
        """Return when everything written before this call is on disk.

        ApiError 503 if the disk refused it: then it must not be acknowledged.
        """
        revision = self._revision
        with self._wake:
            self._check_writable()
            if self._committed >= revision:
                return
            loop = asyncio.get_running_loop()
            future: asyncio.Future[None] = loop.create_future()
            self._waiters.append((revision, loop, future))
        await future

    def close(self) -> None:
        """Commit what is queued, end the thread, release the file. Idempotent."""
        with self._wake:
            self._closing = True
            self._wake.notify()
        if self._thread is not None:
            self._thread.join()
            self._thread = None
        self._connection.close()

    # The hooks, on the caller's thread

    def _persist(self, change: Change) -> None:
        row = _row(change)
        with self._wake:
            self._check_writable()
            self._enqueue(row)

    def _forget(self, compacted: int, dead: list[int]) -> None:
        with self._wake:
            if not self._failure and not self._closing:
                self._enqueue(_Forget(compacted, dead))

    def _enqueue(self, item: _Row | _Forget) -> None:
        self._queue.append(item)
        if self._thread is None:
            self._thread = threading.Thread(target=self._write, name="store-writer", daemon=True)
            self._thread.start()
        elif len(self._queue) == 1:
            self._wake.notify()

    def _check_writable(self) -> None:
        if self._failure:
            raise ApiError(503, "ServiceUnavailable", self._failure)
        if self._closing:
            raise ApiError(503, "ServiceUnavailable", f"the store {self.path} is closed")

    # The writer thread

    def _write(self) -> None:
        while batch := self._next_batch():
            try:
                self._commit_batch(batch)
            except Exception as error:  # whatever it is, the disk no longer follows the memory
                self._fail(error)
                return
            revisions = [item[0] for item in batch if not isinstance(item, _Forget)]
            if revisions:
                self._acknowledge(revisions[-1])

    def _next_batch(self) -> list[_Row | _Forget]:
        """Wait for work; an empty list when closing and all is written."""
        with self._wake:
            while not self._queue and not self._closing:
                self._wake.wait()
            batch: list[_Row | _Forget] = []
            size = 0
            while self._queue and size < BATCH_BYTES:
                item = self._queue.popleft()
                size += 0 if isinstance(item, _Forget) else len(item[4] or b"")
                batch.append(item)
            return batch

    def _commit_batch(self, batch: list[_Row | _Forget]) -> None:
        run = self._connection.execute
        run("BEGIN IMMEDIATE")
        for item in batch:
            if isinstance(item, _Forget):
                run("UPDATE compaction SET revision = ?", (item.compacted,))
                dead = ((revision,) for revision in item.dead)
                self._connection.executemany("DELETE FROM log WHERE revision = ?", dead)
            else:
                run(_INSERT, item)
        run("COMMIT")

    def _acknowledge(self, committed: int) -> None:
        with self._wake:
            self._committed = committed
            ready: dict[asyncio.AbstractEventLoop, list[asyncio.Future[None]]] = {}
            while self._waiters and self._waiters[0][0] <= committed:
                _, loop, future = self._waiters.popleft()
                ready.setdefault(loop, []).append(future)
        for loop, futures in ready.items():
            _call(loop, futures, None)

    def _fail(self, error: Exception) -> None:
        """Take no more writes: the memory is ahead of the disk from here on."""
        message = (
            f"the store {self.path} can no longer be written: {error}; nothing is accepted until "
            "the cause is removed (free disk space, permissions) and the cluster starts again"
        )
        with self._wake:
            self._failure = message
            self._queue.clear()
            waiters = list(self._waiters)
            self._waiters.clear()
        for _, loop, future in waiters:
            _call(loop, [future], ApiError(503, "ServiceUnavailable", message))

    # Reading back

    def _stored_changes(self) -> Iterator[Change]:
        """The log as changes; each must be asked for after the one before it was applied."""
        expected = 0
        query = "SELECT revision, key, deleted, create_revision, value FROM log ORDER BY revision"
        for revision, key, deleted, created, data in self._connection.execute(query):
            previous = self._records.get(key)
            if revision > self._compacted:
                expected = max(expected, self._revision) + 1
                if revision != expected:
                    raise _damaged(self.path, f"revision {expected} is missing")
            if deleted and previous is None:
                raise _damaged(self.path, f"revision {revision} deletes {key}, which is not there")
            if data is None and previous is not None:
                value = previous.value
            else:
                value = _decoded(self.path, revision, data)
            record = Record(key, value, created, revision)
            yield Change(DELETE if deleted else PUT, key, record, previous, revision)


def _row(change: Change) -> _Row:
    """The log row of ``change``; ApiError 400 if its value has no JSON form."""
    deleted = change.kind == DELETE
    data: bytes | None = None
    if not (deleted and change.previous and change.record.value is change.previous.value):
        try:
            data = orjson.dumps(change.record.value)
        except TypeError as error:
            raise bad_request(f"{change.key} cannot be stored as JSON: {error}") from error
    return (change.revision, change.key, deleted, change.record.create_revision, data)


def _decoded(path: Path, revision: int, data: bytes | None) -> dict[str, object]:
    try:
        value = orjson.loads(data or b"")
    except orjson.JSONDecodeError as error:
        raise _damaged(path, f"revision {revision} does not hold JSON: {error}") from error
    if not isinstance(value, dict):
        raise _damaged(path, f"revision {revision} does not hold a JSON object")
    return value


def _call(
    loop: asyncio.AbstractEventLoop,
    futures: list[asyncio.Future[None]],
    error: ApiError | None,
) -> None:
    """Resolve ``futures`` on their own loop."""

    def resolve() -> None:
        for future in futures:
            if future.done():  # its waiter was cancelled
                continue
            if error is None:
                future.set_result(None)
            else:
                future.set_exception(error)

    try:
        loop.call_soon_threadsafe(resolve)
    except RuntimeError:
        return  # the loop has closed: nobody waits there any more


def _create(path: Path) -> None:
    """Make an empty private file if there is none.

    An existing file is not touched: closing any descriptor of it would drop the POSIX locks that
    a store of this very process may hold on it.
    """
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600)
    except FileExistsError:
        return
    os.close(descriptor)
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def _prepare(path: Path, connection: sqlite3.Connection) -> None:
    """Check whose file it is, before changing a byte of it; then lock it and set it up."""

    def pragma(name: str) -> int:
        return int(connection.execute(f"PRAGMA {name}").fetchone()[0])

    connection.execute("PRAGMA locking_mode = EXCLUSIVE")
    tables = connection.execute("SELECT count(*) FROM sqlite_master").fetchone()[0]
    ours = pragma("application_id") == APPLICATION_ID
    if tables and not ours:
        raise ConfigError(
            f"{path}: this SQLite file was not made by kubarium; it is left as it is. "
            "Name another file or directory for the cluster's state"
        )
    version = pragma("user_version")
    if ours and version != SCHEMA_VERSION:
        raise ConfigError(
            f"{path}: written by another version of kubarium (schema {version}, this one knows "
            f"{SCHEMA_VERSION}). Upgrade kubarium, or start afresh with `kubarium reset`"
        )
    connection.execute("PRAGMA journal_mode = WAL")
    connection.execute("PRAGMA synchronous = FULL")
    if tables:
        # Takes the lock that locking_mode keeps until the connection closes or the process dies.
        connection.executescript("BEGIN EXCLUSIVE; COMMIT;")
    else:
        connection.executescript(_SCHEMA)


def _explain(path: Path, error: sqlite3.Error) -> ConfigError:
    code = getattr(error, "sqlite_errorcode", 0) & 0xFF
    if code in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED):
        return ConfigError(
            f"{path}: in use by another process. Stop that cluster with `kubarium down`, or give "
            "this one a state directory of its own"
        )
    if code == sqlite3.SQLITE_NOTADB:
        return ConfigError(
            f"{path}: not a SQLite file, so not a cluster's store; it is left as it is. Name "
            "another file or directory for the cluster's state"
        )
    if code == sqlite3.SQLITE_CORRUPT:
        return _damaged(path, str(error))
    return ConfigError(f"{path}: cannot open the cluster's store: {error}")


def _damaged(path: Path, what: str) -> ConfigError:
    return ConfigError(
        f"{path}: the cluster's store is damaged: {what}. Restore the file from a copy, or start "
        "afresh with `kubarium reset`"
    )
