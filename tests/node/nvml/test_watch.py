"""Errors of real GPUs as health: what they taint, what they leave alone."""

from __future__ import annotations

import threading

import pytest

from kubarium.node.drivers.nvml.discovery import discover
from kubarium.node.drivers.nvml.watch import HealthWatch
from tests.node.nvml.fake import FakeNvml, mig_board, two_boards


def watching(*boards):
    nvml = FakeNvml(*boards)
    return nvml, HealthWatch(nvml, discover(nvml).gpus)


def words(watch):
    return {name: health.text() for name, health in watch.health.items()}


def test_a_critical_error_taints_its_gpu():
    boards = two_boards()
    nvml, watch = watching(*boards)
    assert [uuid for uuid, _ in nvml.registered] == ["GPU-aaaa", "GPU-bbbb"]
    assert not watch.wait(1)
    nvml.happen(boards[1], 79)
    assert watch.wait(1000)
    assert words(watch) == {"gpu-1": "xid-79:NoSchedule"}


def test_an_error_of_an_application_only_informs_and_hides_nothing_worse():
    boards = two_boards()
    nvml, watch = watching(*boards)
    for board, xid in ((boards[0], 31), (boards[1], 79), (boards[1], 31)):
        nvml.happen(board, xid)
        watch.wait(1000)
    assert words(watch) == {"gpu-0": "xid-31:None", "gpu-1": "xid-79:NoSchedule"}


@pytest.mark.parametrize(
    ("kind", "wanted"), [(2, {"gpu-0": "xid-48:NoSchedule"}), (1, {}), (4, {})]
)
def test_of_ecc_errors_only_double_bits_count(kind, wanted):
    boards = two_boards()
    nvml, watch = watching(*boards)
    nvml.happen(boards[0], 0, kind=kind)
    watch.wait(1000)
    assert words(watch) == wanted


def test_a_lost_gpu_is_the_one_that_does_not_answer():
    boards = two_boards()
    nvml, watch = watching(*boards)
    boards[0].broken["MemoryInfo"] = 15
    nvml.events.put(15)
    assert watch.wait(1000)
    assert words(watch) == {"gpu-0": "gpu-lost:NoSchedule"}


def test_when_all_answer_all_are_suspected():
    nvml, watch = watching(*two_boards())
    nvml.events.put(15)
    watch.wait(1000)
    assert set(words(watch)) == {"gpu-0", "gpu-1"}


@pytest.mark.parametrize("function", ["SupportedEventTypes", "RegisterEvents"])
def test_a_gpu_without_events_is_unmonitored(function):
    boards = two_boards()
    boards[0].broken[function] = 3
    _, watch = watching(*boards)
    assert words(watch) == {"gpu-0": "unmonitored:None"}


def test_an_error_on_an_instance_taints_that_instance():
    board = mig_board()
    nvml, watch = watching(board)
    nvml.happen(board, 79, gi=2, ci=0)
    watch.wait(1000)
    assert set(words(watch)) == {"gpu-0-mig-3g20gb-9-0"}
    nvml.happen(board, 79)
    watch.wait(1000)
    assert set(words(watch)) == {"gpu-0-mig-3g20gb-9-0", "gpu-0-mig-1g5gb-19-6"}
    nvml.happen(board, 63, gi=5, ci=0)  # of an instance made since: not ours
    assert not watch.wait(1000)


def test_the_end_waits_for_a_thread_that_waits():
    nvml, watch = watching(*two_boards())
    nvml.is_open = True
    waiting = threading.Thread(target=watch.wait, args=(300,))
    waiting.start()
    while not nvml.waiting:
        pass
    assert watch.stop(10)
    watch.free()
    waiting.join()
    assert nvml.registered == []
    assert not watch.wait(10_000)  # at once: there is nothing to wait on


def test_other_errors_are_the_callers():
    nvml, watch = watching(*two_boards())
    nvml.events.put(999)
    with pytest.raises(nvml.NVMLError):
        watch.wait(1000)


@pytest.mark.parametrize("number", [3, 13])
@pytest.mark.parametrize("function", ["EventSetCreate", "EventSetWait"])
def test_a_driver_without_events_leaves_all_unmonitored(function, number):
    nvml = FakeNvml(*two_boards())
    nvml.broken[function] = number
    watch = HealthWatch(nvml, discover(nvml).gpus)
    watch.wait(1)
    assert words(watch) == {"gpu-0": "unmonitored:None", "gpu-1": "unmonitored:None"}
    assert not watch.is_watching
    assert not watch.wait(10_000)  # at once


def test_while_a_gpu_is_lost_waits_are_cut_short():
    nvml, watch = watching(*two_boards())
    nvml.events.put(15)
    watch.wait(1000)
    assert watch.is_cut_short
    watch.wait(1)
    assert not watch.is_cut_short


def test_an_error_of_a_number_that_nobody_knows_is_an_error():
    boards = two_boards()
    nvml, watch = watching(*boards)
    nvml.happen(boards[0], 123456)
    assert watch.wait(1000)
    assert words(watch) == {"gpu-0": "xid-9999:NoSchedule"}
