"""kill -9 of the agent at any moment: the next one goes on where it was, pod by pod."""

from __future__ import annotations

import json

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from kubarium.node.lifecycle import events as ev
from kubarium.node.lifecycle.adoption import Adopted, AdoptedContainer
from kubarium.node.lifecycle.records import State
from kubarium.node.lifecycle.resize import desired
from kubarium.node.lifecycle.resume import resumed
from kubarium.node.lifecycle.saved import saved
from kubarium.node.lifecycle.status import pod_status
from kubarium.node.saved_states import SavedStates

from .test_lifecycle import PODS, STEPS, TERMINAL, Shell, deleted, play, pod_of

SLOW = [HealthCheck.too_slow]


class Mortal(Shell):
    """A shell that may be killed: what it had not been answered is lost, what runs goes on."""

    def __init__(self, pod, now=1000.0):
        self.note, self.finding = None, False
        self.latest = {}  # name -> the latest attempt that the runtime has started
        super().__init__(pod, now)

    def tell(self, event):
        super().tell(event)
        self.note = json.loads(json.dumps(saved(self.machine)))
        for name, attempt in self.alive:
            self.latest[name] = max(attempt, self.latest.get(name, -1))

    def _take(self, instruction):
        gone = isinstance(instruction, ev.SignalContainer) and (
            (instruction.name, instruction.attempt) not in self.alive
        )
        if not (gone and self.finding):  # a new agent cannot know yet; the runtime ignores it
            super()._take(instruction)

    def killed(self, started=()):
        """``started``: of the containers that were just being started, those that were."""
        for instruction in self.open:
            if isinstance(instruction, ev.StartContainer) and instruction.name in started:
                self.alive[(instruction.name, instruction.attempt)] = None
                self.latest[instruction.name] = instruction.attempt
        self.open = []
        containers = {
            name: AdoptedContainer(attempt, f"id-{name}-{attempt}", "image", self.now)
            for name, attempt in self.latest.items()
        }
        adopted = Adopted(("127.64.0.1",), containers) if self.machine.prepared else None
        self.machine = resumed(self.pod, self.now, adopted=adopted, saved=self.note)
        self.finding = True
        for name, attempt in self.latest.items():
            if adopted and (name, attempt) not in self.alive:
                self.tell(ev.ContainerExited(name, attempt, 137, 9))
        self.tell(ev.PodSynced(self.pod))
        self.finding = False

    def status(self):
        return pod_status(self.machine, "127.0.0.1", self.now)


@settings(max_examples=300, deadline=None, suppress_health_check=SLOW)
@given(PODS, STEPS)
def test_the_next_agent_says_of_a_pod_what_the_last_one_said(pod, steps):
    shell = Mortal(pod)
    play(shell, [step for step in steps if step[0] != "vanish"])
    shell.answer_all()
    before, waits = shell.status(), shell.machine.next_deadline()
    if not shell.machine.prepared:
        return
    shell.killed()
    assert shell.status() == before
    if not any("livenessProbe" in entry for entry in pod["spec"]["containers"]):
        assert shell.machine.next_deadline() == waits


@settings(max_examples=300, deadline=None, suppress_health_check=SLOW)
@given(PODS, STEPS, STEPS, st.booleans())
def test_a_deleted_pod_ends_and_goes_once_whenever_the_agent_is_killed(pod, steps, more, up):
    shell = Mortal(pod)
    play(shell, [step for step in steps if step[0] != "vanish"])
    shell.killed(started=("m0", "i0", "side") if up else ())
    play(shell, [step for step in more if step[0] != "vanish"])
    shell.pod = deleted(shell.pod, 5)
    shell.tell(ev.PodSynced(shell.pod))
    shell.killed(started=("m0",) if up else ())
    for _ in range(6):
        shell.answer_all()
        shell.wait(40.0)
    assert not shell.alive
    assert shell.deletes >= 1
    assert shell.status()["phase"] in TERMINAL
    assert shell.machine.next_deadline() is None


@settings(max_examples=200, deadline=None, suppress_health_check=SLOW)
@given(PODS, STEPS, STEPS)
def test_a_container_that_never_restarts_is_not_started_twice_by_two_agents(pod, steps, more):
    shell = Mortal(pod)
    play(shell, steps)
    shell.killed(started=("m0", "m1"))
    play(shell, more)
    rules = any(entry.get("restartPolicyRules") for entry in pod["spec"]["containers"])
    if pod["spec"]["restartPolicy"] == "Never" and not rules:
        counts = [r.restart_count for r in shell.machine.containers if r.plan.kind == "main"]
        assert counts == [0] * len(counts)


def up(pod):
    shell = Mortal(pod)
    shell.answer_all()
    return shell


def test_a_crash_loop_waits_as_long_as_it_had_to():
    shell = up(pod_of())
    for _ in range(4):
        shell.exit("main", 1)
        shell.answer_all()
        if shell.machine.record("main").reason:
            shell.wait(shell.machine.next_deadline() - shell.now)
            shell.answer_all()
    shell.exit("main", 1)
    assert shell.machine.record("main").backoff_s == 80.0
    due = shell.machine.next_deadline()
    shell.wait(30.0)
    shell.killed()
    waiting = shell.state()["state"]["waiting"]
    assert waiting["reason"] == "CrashLoopBackOff"
    assert waiting["message"].startswith("back-off 1m20s restarting failed container=main")
    assert shell.machine.next_deadline() == due
    assert shell.state()["restartCount"] == 4
    shell.wait(due - shell.now)
    shell.answer_all()
    shell.exit("main", 1)
    assert shell.machine.record("main").backoff_s == 160.0


def test_the_back_off_outlives_the_sandbox_too():
    shell = up(pod_of())
    for _ in range(3):
        shell.exit("main", 1)
        shell.answer_all()
        shell.wait(60.0)
        shell.answer_all()
    held = shell.machine.record("main").backoff_s
    pod = shell.pod | {"status": shell.status()}
    machine = resumed(pod, shell.now, saved=shell.note)
    assert machine.record("main").backoff_s == held > 0


def grown(pod, memory):
    container = pod["spec"]["containers"][0] | {"resources": {"requests": {"memory": memory}}}
    metadata = pod["metadata"] | {"generation": pod["metadata"]["generation"] + 1}
    return pod | {"metadata": metadata, "spec": pod["spec"] | {"containers": [container]}}


@pytest.mark.parametrize("adopted", [True, False])
def test_a_resize_that_was_not_granted_is_not_taken_for_granted(adopted):
    shell = up(pod_of({"name": "main", "resources": {"requests": {"memory": "1Gi"}}}))
    shell.pod = grown(shell.pod, "64Gi")
    shell.tell(ev.PodSynced(shell.pod))
    if adopted:
        shell.killed()
        machine = shell.machine
    else:
        machine = resumed(shell.pod | {"status": shell.status()}, shell.now, saved=shell.note)
    assert machine.allocated["main"] == {"requests": {"memory": "1Gi"}}
    assert machine.actual["main"] == {"requests": {"memory": "1Gi"}}
    assert desired(machine.pod)["main"] == {"requests": {"memory": "64Gi"}}


def test_without_a_note_the_status_tells_what_was_granted():
    shell = up(pod_of({"name": "main", "resources": {"requests": {"memory": "1Gi"}}}))
    pod = grown(shell.pod, "64Gi") | {"status": shell.status()}
    machine = resumed(pod, shell.now, keeps_running=True)
    assert machine.allocated["main"] == {"requests": {"memory": "1Gi"}}


def test_what_was_granted_and_refused_by_the_kernel_is_remembered_as_two_things():
    shell = up(pod_of({"name": "main", "resources": {"limits": {"memory": "2Gi"}}}))
    shell.pod = grown(shell.pod, "1Gi")
    shell.tell(ev.PodSynced(shell.pod))
    granted = desired(shell.pod)
    shell.tell(ev.Resized(granted, shell.machine.actual, ()))
    shell.killed()
    assert shell.machine.allocated == granted
    assert shell.machine.actual["main"] == {"limits": {"memory": "2Gi"}}


PROBE = {"periodSeconds": 5, "failureThreshold": 3, "successThreshold": 2}


def test_probes_go_on_with_their_counts():
    probe = PROBE | {"exec": {"command": ["x"]}}
    startup = {"periodSeconds": 1, "failureThreshold": 3, "exec": {"command": ["x"]}}
    live = probe | {"successThreshold": 1}
    main = {"name": "main", "startupProbe": startup, "readinessProbe": probe, "livenessProbe": live}
    shell = up(pod_of(main))
    assert shell.state()["started"]
    shell.wait(5.0)
    for instruction in list(shell.open):
        shell.answer(instruction, instruction.kind == ev.READINESS)
    record = shell.machine.record("main")
    assert record.ready
    assert record.probes[ev.LIVENESS].failures == 1
    shell.killed()
    record = shell.machine.record("main")
    assert (record.started, record.ready) == (True, True)
    assert record.probes[ev.LIVENESS].failures == 1
    kinds = sorted(i.kind for i in shell.open)
    assert kinds == [ev.LIVENESS, ev.READINESS], "startup is over"
    for _ in range(2):
        for instruction in list(shell.open):
            shell.answer(instruction, instruction.kind == ev.READINESS)
        shell.wait(5.0)
    assert record.state is State.STOPPING, "the third failure in a row"


def test_a_startup_probe_that_has_not_passed_keeps_its_failures():
    startup = {"periodSeconds": 1, "failureThreshold": 3, "exec": {"command": ["x"]}}
    shell = Mortal(pod_of({"name": "main", "startupProbe": startup}))
    for wanted in (ev.Prepare, ev.StartContainer):
        shell.answer(next(i for i in shell.open if isinstance(i, wanted)))
    for _ in range(2):
        shell.answer(shell.open[0], good=False)
        shell.wait(1.0)
    shell.killed()
    assert not shell.state()["started"]
    shell.answer(shell.open[0], good=False)
    assert shell.machine.record("main").state is State.STOPPING


def test_init_containers_that_are_done_stay_done():
    shell = Mortal(pod_of(init=({"name": "a"}, {"name": "b"})))
    shell.answer_all()
    shell.exit("a", 0)
    shell.answer_all()
    shell.killed()
    shell.answer_all()
    assert shell.starts == {"a": [1000.0], "b": [1000.0]}
    shell.exit("b", 0)
    shell.answer_all()
    assert "main" in shell.starts


def test_a_hook_that_an_agents_end_interrupted_is_over():
    hooked = {
        "name": "main",
        "lifecycle": {"postStart": {"exec": {"command": ["x"]}}},
        "livenessProbe": {"exec": {"command": ["x"]}, "periodSeconds": 5},
    }
    shell = Mortal(pod_of(hooked, {"name": "second"}))
    while not shell.alive:
        shell.answer(shell.open[0])
    assert "waiting" in shell.state()["state"]
    shell.killed()
    assert "running" in shell.state()["state"], "postStart is not run twice"
    assert not [asked for asked in shell.open if isinstance(asked, ev.RunHook)]
    shell.answer_all()
    assert list(shell.starts) == ["main", "second"]
    shell.wait(5)
    assert [asked.kind for asked in shell.open] == ["livenessProbe"]


def test_a_stop_that_was_under_way_keeps_its_deadline_and_its_hook():
    hooked = {"name": "main", "lifecycle": {"preStop": {"exec": {"command": ["x"]}}}}
    shell = up(pod_of(hooked))
    shell.pod = deleted(shell.pod, 20)
    shell.tell(ev.PodSynced(shell.pod))
    shell.wait(5.0)
    shell.killed()
    [hook] = [i for i in shell.open if isinstance(i, ev.RunHook)]
    shell.answer(hook)
    assert [signal for _, _, signal in shell.signals] == ["SIGTERM"]
    shell.killed()
    assert [signal for _, _, signal in shell.signals] == ["SIGTERM", "SIGTERM"]
    shell.wait(14.9)
    assert "SIGKILL" not in [signal for _, _, signal in shell.signals]
    shell.wait(0.2)
    assert shell.signals[-1][2] == "SIGKILL"


def test_why_the_node_ended_a_pod_is_not_forgotten():
    shell = up(pod_of())
    shell.tell(ev.Terminate("Evicted", "The node was low on resource: memory. ", 1.0, True))
    shell.killed()
    shell.exit("main", 143, 15)
    shell.answer_all()
    status = shell.status()
    assert (status["phase"], status["reason"]) == ("Failed", "Evicted")
    assert status["message"] == "The node was low on resource: memory. "
    target = shell.conditions()["DisruptionTarget"]
    assert (target["status"], target["reason"]) == ("True", "TerminationByKubelet")


def test_a_probe_that_passes_again_changes_nothing_on_disk():
    shell = up(pod_of({"name": "main", "livenessProbe": {"exec": {}}}))
    shell.wait(10.0)
    shell.answer_all()
    before = shell.note
    for _ in range(5):
        shell.wait(10.0)
        shell.answer_all()
    assert shell.note == before


# On disk -----------------------------------------------------------------------------------------


def test_a_note_that_cannot_be_read_is_as_none(tmp_path):
    states = SavedStates(tmp_path)
    states.open()
    assert states.read("a") is None
    states.write("a", {"version": 1})
    assert states.read("a") == {"version": 1}
    for broken in (b"", b"{", b"[]", b"\x00\xff"):
        (tmp_path / "machines/a.json").write_bytes(broken)
        assert SavedStates(tmp_path).read("a") is None


@pytest.mark.parametrize(
    "change",
    [
        {"version": 99},
        {"uid": "another"},
        {"containers": {"main": {"state": "nonsense"}}},
        {"deadlines": [1]},
        {"failure": 7},
    ],
)
def test_a_note_of_another_kind_is_not_believed(change):
    shell = up(pod_of())
    adopted = Adopted(("127.64.0.1",), {"main": AdoptedContainer(0, "id", "image", 1000.0)})
    pod = shell.pod | {"status": shell.status()}
    machine = resumed(pod, shell.now, adopted=adopted, saved=shell.note | change)
    assert machine.record("main").state is State.RUNNING, "the status and the runtime suffice"


def test_notes_of_pods_that_are_gone_are_removed(tmp_path):
    states = SavedStates(tmp_path)
    states.open()
    for uid in ("stays", "goes"):
        states.write(uid, {})
    (tmp_path / "machines/.half.json").write_bytes(b"{")
    states.drop_unknown(lambda uid: uid == "stays")
    assert [path.name for path in (tmp_path / "machines").iterdir()] == ["stays.json"]
    states.drop("stays")
    assert not list((tmp_path / "machines").iterdir())
