"""Running a cluster as a process: here in the foreground, or forked into the background."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import traceback
from collections.abc import Callable, Coroutine
from dataclasses import asdict, dataclass
from pathlib import Path
from time import monotonic
from typing import Any

import orjson
import psutil
import uvloop

from kubarium.api.schema import builtin_schemas
from kubarium.base.errors import ConfigError, KubariumError
from kubarium.cluster import kubeconfig
from kubarium.cluster.access import Access
from kubarium.cluster.collector import collect_when_idle, tune_collector
from kubarium.cluster.embedded import EmbeddedCluster
from kubarium.cluster.file import ClusterFile
from kubarium.cluster.leftovers import end_pods
from kubarium.cluster.nodes import shutdown_s
from kubarium.cluster.nursery import Nursery
from kubarium.cluster.state import AT_ONCE, ServerRecord, StateDirectory
from kubarium.node.config import PROCESS

LOG_TAIL_LINES = 15


@dataclass(frozen=True, slots=True)
class Launch:
    """Everything that `kubarium up` decides before it starts."""

    state: StateDirectory
    file: ClusterFile
    port: int = 0
    in_memory: bool = False
    kubeconfig: Path | None = None


OnReady = Callable[[ServerRecord], None]
OnShutdown = Callable[[float], None]


def _quietly(seconds: float) -> None:
    """Whoever has asked for it says so."""


def start_here(launch: Launch, on_ready: OnReady, on_shutdown: OnShutdown = _quietly) -> None:
    """Serve until a signal (see :class:`_Ending`). ``on_ready`` is called once the API answers,
    ``on_shutdown`` when nodes shut down before the end, with the seconds that they have."""
    launch.state.create()
    if launch.in_memory:
        end_pods(launch.state)  # what they belonged to is not read
    began = monotonic()
    builtin_schemas()  # server and agents share what is there before the fork
    # Before there are threads: agents are forked from it.
    nursery = Nursery() if any(pool.runtime == PROCESS for pool in launch.file.pools) else None
    tune_collector()
    try:
        uvloop.run(_serve(launch, on_ready, on_shutdown, began, nursery))
    finally:
        if nursery is not None:
            nursery.close()


async def _serve(
    launch: Launch,
    on_ready: OnReady,
    on_shutdown: OnShutdown,
    began: float,
    nursery: Nursery | None,
) -> None:
    """Until a signal ends it, or a component dies and its error comes out here."""
    task = asyncio.current_task()
    assert task is not None
    ending = _Ending(task)
    cluster = EmbeddedCluster.on_disk(launch.state, launch.file, in_memory=launch.in_memory)
    cluster.nursery = nursery
    # Pods of objects that are forgotten have nobody to take them over.
    cluster.pods_survive = nursery is not None and not launch.in_memory
    record: ServerRecord | None = None
    collecting = asyncio.create_task(collect_when_idle(), name="collector")
    try:
        async with cluster.serving(launch.port) as access:
            record = _publish(launch, access, cluster, monotonic() - began)
            on_ready(record)
            await ending.asked(cluster.wait_failed())
            if record.shutdown_s:
                on_shutdown(record.shutdown_s)
                await cluster.shut_down()
            ending.begin()
    except asyncio.CancelledError:
        return
    finally:
        collecting.cancel()
        launch.state.forget_record()
        if record is not None:
            withdraw(record)


def withdraw(record: ServerRecord) -> None:
    """Take our context out of the kubeconfig that it was put into; doing it twice is fine."""
    if record.kubeconfig:
        kubeconfig.remove(Path(record.kubeconfig), record.context, record.previous_context)


class _Ending:
    """What signals do to a server.

    The first SIGTERM or SIGINT has it end: at once while it starts, gently
    (:meth:`EmbeddedCluster.shut_down`) once it serves. Another SIGINT, or AT_ONCE at any time,
    leaves it no time for that. What comes during the clean-up is ignored, so that an impatient
    Ctrl-C does not interrupt it.
    """

    def __init__(self, task: asyncio.Task[None]) -> None:
        self._task = task
        self._asked: asyncio.Future[None] | None = None
        self._over = False
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT, AT_ONCE):
            loop.add_signal_handler(number, self._heed, number)

    async def asked(self, failed: Coroutine[Any, Any, None]) -> None:
        """Until it is to end; raises what ``failed`` raises, if that comes first."""
        self._asked = asyncio.get_running_loop().create_future()
        failure = asyncio.ensure_future(failed)
        try:
            await asyncio.wait((self._asked, failure), return_when=asyncio.FIRST_COMPLETED)
            if failure.done():
                failure.result()
        finally:
            failure.cancel()

    def begin(self) -> None:
        """The clean-up begins."""
        self._over = True

    def _heed(self, number: signal.Signals) -> None:
        if self._over:
            return
        if self._asked is not None and number != AT_ONCE:
            if not self._asked.done():
                self._asked.set_result(None)
                return
            if number == signal.SIGTERM:
                return  # said once more
        self.begin()
        self._task.cancel()


def _publish(
    launch: Launch, access: Access, cluster: EmbeddedCluster, ready_after_s: float
) -> ServerRecord:
    """Write down how to reach the server: for kubectl, and for our own commands."""
    state = launch.state
    kubeconfig.write(state.kubeconfig, access.kubeconfig(state.context))
    previous = ""
    if launch.kubeconfig:
        previous = kubeconfig.merge(launch.kubeconfig, access.kubeconfig(state.context))
    me = psutil.Process()
    record = ServerRecord(
        pid=me.pid,
        started=me.create_time(),
        url=access.url,
        context=state.context,
        kubeconfig=str(launch.kubeconfig or ""),
        previous_context=previous,
        ready_after_s=round(ready_after_s, 3),
        isolation=tuple(cluster.isolation()),
        shutdown_s=shutdown_s(launch.file),
    )
    state.write_record(record)
    return record


def start_detached(launch: Launch) -> ServerRecord:
    """Fork a server, wait until it is ready, and return what it wrote down.

    The fork comes before any thread or event loop exists. A child that cannot start leaves its
    reason in the log; the tail of it becomes the error.
    """
    launch.state.create()
    reader, writer = os.pipe()
    sys.stdout.flush()
    sys.stderr.flush()
    child = os.fork()
    if child == 0:
        os.close(reader)
        _become_daemon(launch, writer)
    os.close(writer)
    try:
        with os.fdopen(reader, "rb") as pipe:
            answer = pipe.read()
    except KeyboardInterrupt:  # in a session of its own the child has not heard it
        os.kill(child, signal.SIGTERM)
        raise
    if answer:
        return ServerRecord(**orjson.loads(answer))
    os.waitpid(child, 0)
    log = launch.state.log.read_text(errors="replace").splitlines()[-LOG_TAIL_LINES:]
    raise ConfigError(
        "the server did not start; the end of its log says:\n  "
        + "\n  ".join(log)
        + f"\n(the whole log: {launch.state.log})"
    )


def _become_daemon(launch: Launch, writer: int) -> None:
    """The child's whole life; never returns."""
    code = 1
    try:
        os.setsid()
        log = os.open(launch.state.log, os.O_CREAT | os.O_WRONLY | os.O_TRUNC, 0o600)
        null = os.open(os.devnull, os.O_RDONLY)
        for source, target in ((null, 0), (log, 1), (log, 2)):
            os.dup2(source, target)

        def tell_parent(record: ServerRecord) -> None:
            os.write(writer, orjson.dumps(asdict(record)))
            os.close(writer)

        start_here(launch, tell_parent)
        code = 0
    except KubariumError as error:
        sys.stderr.write(f"{error}\n")
    except BaseException:  # the last line of defence: the log is all that anyone will see
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
