"""CRI log files: what ``kubectl logs`` options show of them."""

from __future__ import annotations

import asyncio

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kubarium.api.logs import LogOptions
from kubarium.node.logs import read_log, why_no_log
from kubarium.node.runtimes.process.init import MAX_LOG_FILES, MAX_LOG_LINE, LogFile
from kubarium.runtime import virtual

LINES = st.lists(st.binary(max_size=30).filter(lambda line: b"\n" not in line), max_size=20)


def shown(path, **options):
    async def main():
        clock = virtual.VirtualClock()
        pieces = read_log(str(path), LogOptions(**options), clock, lambda: False)
        return b"".join([piece async for piece in pieces])

    return virtual.run(main())


def written(folder, *chunks):
    path = folder / "0.log"
    path.unlink(missing_ok=True)
    log = LogFile(str(path))
    for chunk in chunks:
        log.feed("stdout", chunk)
    log.close()
    return path


@given(LINES, st.integers(0, 25), st.integers(1, 7))
def test_tail_shows_the_last_lines_however_output_was_cut(tmp_path_factory, lines, tail, size):
    data = b"".join(line + b"\n" for line in lines)
    chunks = [data[at : at + size] for at in range(0, len(data), size)]
    path = written(tmp_path_factory.mktemp("logs"), *chunks)
    assert shown(path) == data
    expected = lines[-tail:] if tail else []
    assert shown(path, tail_lines=tail) == b"".join(line + b"\n" for line in expected)


@given(LINES, st.integers(0, 100))
def test_limit_bytes_cuts_exactly(tmp_path_factory, lines, limit):
    data = b"".join(line + b"\n" for line in lines)
    path = written(tmp_path_factory.mktemp("logs"), data)
    assert shown(path, limit_bytes=limit) == data[:limit]


def test_long_lines_come_back_whole(tmp_path):
    line = b"x" * (3 * MAX_LOG_LINE + 5)
    path = written(tmp_path, b"before\n", line + b"\nafter\n")
    assert max(len(part) for part in path.read_bytes().split(b"\n")) < MAX_LOG_LINE + 60
    assert shown(path) == b"before\n" + line + b"\nafter\n"
    assert shown(path, tail_lines=2) == line + b"\nafter\n"


def test_a_last_line_without_newline_is_kept(tmp_path):
    assert shown(written(tmp_path, b"half")) == b"half\n"


def test_since_compares_with_each_lines_time(tmp_path):
    path = tmp_path / "0.log"
    path.write_text(
        "2026-01-01T00:00:00.000000001Z stdout F old\n2026-01-01T00:00:10.500000000Z stderr F new\n"
    )
    assert shown(path, since_time="2026-01-01T00:00:05Z") == b"new\n"
    assert shown(path, timestamps=True, tail_lines=1) == (b"2026-01-01T00:00:10.500000000Z new\n")


def test_following_ends_when_the_container_has(tmp_path):
    path = written(tmp_path, b"one\n")

    async def main():
        clock = virtual.VirtualClock()
        end = clock.now() + 5
        started = clock.now()

        def running():
            return clock.now() < end

        options = LogOptions(follow=True)
        pieces = [piece async for piece in read_log(str(path), options, clock, running)]
        return b"".join(pieces), clock.now() - started

    text, seconds = virtual.run(main())
    assert text == b"one\n"
    assert 5 <= seconds < 6


def test_a_log_is_rotated_and_only_so_many_files_are_kept(tmp_path):
    path = tmp_path / "0.log"
    log = LogFile(str(path), max_bytes=1000)
    for number in range(200):
        log.feed("stdout", b"line %d\n" % number)
    log.close()
    names = sorted(file.name for file in tmp_path.iterdir())
    assert len(names) == MAX_LOG_FILES
    assert "0.log" in names
    assert all(file.stat().st_size < 1100 for file in tmp_path.iterdir())
    newest = max(int(name.rsplit(".", 1)[1]) for name in names if name != "0.log")
    assert f"0.log.{newest - MAX_LOG_FILES + 1}" not in names
    kept = range(newest - 3, newest + 1)
    everything = b"".join((tmp_path / f"0.log.{n}").read_bytes() for n in kept)
    assert shown(path).endswith(b"line 199\n")
    assert b"line 199" not in everything


def test_a_follower_misses_nothing_when_the_log_is_rotated(tmp_path):
    path = tmp_path / "0.log"
    wanted = b"".join(b"line %d\n" % number for number in range(100))

    async def main():
        clock = virtual.VirtualClock()
        log = LogFile(str(path), max_bytes=1000)
        alive = True

        async def write():
            nonlocal alive
            for number in range(100):
                log.feed("stdout", b"line %d\n" % number)
                await clock.sleep(0.03)
            log.close()
            alive = False

        writer = asyncio.create_task(write())
        pieces = read_log(str(path), LogOptions(follow=True), clock, lambda: alive)
        seen = b"".join([piece async for piece in pieces])
        await writer
        return seen

    assert virtual.run(main()) == wanted
    assert len(list(tmp_path.iterdir())) > 1


@pytest.mark.parametrize(
    ("entry", "previous", "why"),
    [
        (None, False, 'container "c" in pod "p" is not available'),
        (None, True, 'container "c" in pod "p" is not available'),
        ({}, True, 'previous terminated container "c" in pod "p" not found'),
        ({}, False, 'container "c" in pod "p" is waiting to start - no logs yet'),
        (
            {"state": {"waiting": {"reason": "ContainerCreating"}}},
            False,
            'container "c" in pod "p" is waiting to start: ContainerCreating',
        ),
        (
            {"state": {"waiting": {"reason": "ErrImagePull"}}},
            False,
            'container "c" in pod "p" is waiting to start: image can\'t be pulled',
        ),
        (
            {"state": {"waiting": {"reason": "ImagePullBackOff"}}},
            False,
            'container "c" in pod "p" is waiting to start: trying and failing to pull image',
        ),
        (
            {"state": {"waiting": {"reason": "ErrImageNeverPull"}}},
            False,
            'container "c" in pod "p" is waiting to start: ErrImageNeverPull',
        ),
        (
            {"state": {"terminated": {"exitCode": 0}}},
            False,
            'container "c" in pod "p" is terminated',
        ),
        (
            {"state": {"waiting": {"reason": "x"}}, "lastState": {"terminated": {"exitCode": 1}}},
            False,
            'container "c" in pod "p" is terminated',
        ),
    ],
)
@pytest.mark.parametrize("sort", ["container", "initContainer", "ephemeralContainer"])
def test_why_there_is_no_log_is_told_as_the_kubelet_does(sort, entry, previous, why):
    entries = [] if entry is None else [{"name": "c", **entry}]
    pod = {"metadata": {"name": "p"}, "status": {f"{sort}Statuses": entries}}
    assert why_no_log(pod, "c", previous) == why
