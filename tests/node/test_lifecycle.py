"""The pod machine: properties over any order of events, then the rules of kubelet one by one."""

from __future__ import annotations

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from kubarium.node.lifecycle import events as ev
from kubarium.node.lifecycle.adoption import Adopted, AdoptedContainer
from kubarium.node.lifecycle.plan import qos_class
from kubarium.node.lifecycle.records import State
from kubarium.node.lifecycle.resume import resumed
from kubarium.node.lifecycle.status import pod_phase, pod_status

TERMINAL = ("Succeeded", "Failed")


def pod_of(*containers, init=(), policy="Always", **spec):
    return {
        "metadata": {"name": "p", "namespace": "ns", "uid": "u1", "generation": 1},
        "spec": {
            "containers": [{"image": "busybox"} | c for c in containers or ({"name": "main"},)],
            "initContainers": [{"image": "busybox"} | c for c in init],
            "restartPolicy": policy,
            "terminationGracePeriodSeconds": 30,
        }
        | spec,
        "status": {"phase": "Pending"},
    }


def deleted(pod, grace=30):
    metadata = pod["metadata"] | {
        "deletionTimestamp": "2026-01-01T00:00:00Z",
        "deletionGracePeriodSeconds": grace,
    }
    return pod | {"metadata": metadata}


class Shell:
    """Plays the shell: keeps what was asked for, answers when told to, records the rest."""

    def __init__(self, pod, now=1000.0, machine=None):
        self.pod, self.now = pod, now
        self.machine = machine or resumed(pod, now)
        self.open = []  # instructions that want an answer
        self.alive = {}  # (name, attempt) of commands that run
        self.starts = {}
        self.signals = []
        self.records = []
        self.phases = []
        self.deletes = 0
        self.tell(ev.PodSynced(pod))

    def tell(self, event):
        for instruction in self.machine.handle(event, self.now):
            self._take(instruction)
        self.phases.append(pod_phase(self.machine))

    def _take(self, instruction):
        match instruction:
            case ev.Record():
                self.records.append((instruction.reason, instruction.message))
            case ev.SignalContainer():
                self.signals.append((self.now, instruction.name, instruction.signal))
                key = (instruction.name, instruction.attempt)
                assert key in self.alive, "a signal goes to a running container only"
                if instruction.signal == "SIGKILL":
                    self.open.append(instruction)
            case ev.Delete():
                self.deletes += 1
            case ev.Publish():
                pass
            case _:
                self.open.append(instruction)
                if isinstance(instruction, ev.StartContainer):
                    self.starts.setdefault(instruction.name, []).append(self.now)

    def answer(self, instruction, good=True):
        self.open.remove(instruction)
        match instruction:
            case ev.Prepare():
                good_event = ev.Prepared(("127.64.0.1",))
                self.tell(good_event if good else ev.PrepareFailed("FailedMount", "no such thing"))
            case ev.StartContainer(name, attempt) if good:
                self.alive[(name, attempt)] = None
                self.tell(ev.ContainerStarted(name, attempt, f"id-{name}-{attempt}", "image"))
            case ev.StartContainer(name, attempt):
                self.tell(ev.ContainerStartFailed(name, attempt, "ErrImagePull", "unknown"))
            case ev.SignalContainer(name, attempt, _):
                if (name, attempt) in self.alive:
                    self.exit(name, 137, 9)
            case ev.RunProbe(name, attempt, kind, _):
                outcome = "success" if good else "failure"
                self.tell(ev.ProbeFinished(name, attempt, kind, outcome, "" if good else "no"))
            case ev.RunHook(name, attempt, hook):
                self.tell(ev.HookFinished(name, attempt, hook, "" if good else "no"))
            case ev.Release():
                self.tell(ev.Released())

    def answer_all(self):
        while self.open:
            self.answer(self.open[0])

    def exit(self, name, code=0, signal=0):
        key = next(key for key in self.alive if key[0] == name)
        del self.alive[key]
        self.tell(ev.ContainerExited(*key, code, signal))

    def wait(self, seconds):
        """Let time pass, with a tick at every deadline."""
        end = self.now + seconds
        while (due := self.machine.next_deadline()) is not None and due <= end:
            self.now = max(self.now, due)
            self.tell(ev.Tick())
        self.now = end
        self.tell(ev.Tick())

    def state(self, name="main"):
        status = pod_status(self.machine, "127.0.0.1", self.now)
        entries = status["containerStatuses"] + status.get("initContainerStatuses", [])
        return next(entry for entry in entries if entry["name"] == name)

    @property
    def phase(self):
        return pod_phase(self.machine)

    def conditions(self):
        status = pod_status(self.machine, "127.0.0.1", self.now)
        return {c["type"]: c for c in status["conditions"]}


def running(pod):
    shell = Shell(pod)
    shell.answer_all()
    return shell


# Properties ------------------------------------------------------------------------------------


def restarting_all(*codes, policy="Never"):
    """Fields of a container of which these exit codes restart all."""
    rule = {"action": "RestartAllContainers", "exitCodes": {"operator": "In", "values": codes}}
    return {"restartPolicy": policy, "restartPolicyRules": [rule]}


PROBE = {"periodSeconds": 5, "exec": {"command": ["true"]}}
PODS = st.builds(
    lambda policy, mains, inits, sidecar, probed, hooked, deadline, rules: pod_of(
        *[
            {"name": f"m{n}"}
            | (restarting_all(3, 4) if rules and n == 0 else {})
            | ({"livenessProbe": PROBE, "readinessProbe": PROBE} if probed else {})
            | (
                {"lifecycle": {"preStop": {"exec": {}}, "postStart": {"exec": {}}}}
                if hooked
                else {}
            )
            for n in range(mains)
        ],
        init=[{"name": f"i{n}"} for n in range(inits)]
        + ([{"name": "side", "restartPolicy": "Always"}] if sidecar else []),
        policy=policy,
        **({"activeDeadlineSeconds": 60} if deadline else {}),
    ),
    st.sampled_from(["Always", "OnFailure", "Never"]),
    st.integers(1, 2),
    st.integers(0, 2),
    st.booleans(),
    st.booleans(),
    st.booleans(),
    st.booleans(),
    st.booleans(),
)
STEPS = st.lists(
    st.tuples(
        st.sampled_from(
            ["answer", "answer", "answer", "refuse", "exit", "fail", "wait", "delete", "vanish"]
        ),
        st.integers(0, 5),
    ),
    max_size=40,
)


def play(shell, steps):
    for what, number in steps:
        if what in ("answer", "refuse") and shell.open:
            shell.answer(shell.open[number % len(shell.open)], what == "answer")
        elif what in ("exit", "fail") and shell.alive:
            name = list(shell.alive)[number % len(shell.alive)][0]
            shell.exit(name, 0 if what == "exit" else number + 1)
        elif what == "wait":
            shell.wait(number * 7.0)
        elif what == "delete" and number == 0:
            shell.pod = deleted(shell.pod)
            shell.tell(ev.PodSynced(shell.pod))
        elif what == "vanish" and number == 0:
            shell.tell(ev.PodRemoved())


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(PODS, STEPS)
def test_any_order_of_events_keeps_phase_and_containers_legal(pod, steps):
    shell = Shell(pod)
    play(shell, steps)
    ended = [phase in TERMINAL for phase in shell.phases]
    assert ended == sorted(ended), "a pod that has ended does not come back"
    if shell.phase in TERMINAL:
        assert len({phase for phase in shell.phases if phase in TERMINAL}) == 1
    status = pod_status(shell.machine, "127.0.0.1", shell.now)
    for entry in status["containerStatuses"] + status.get("initContainerStatuses", []):
        assert len(entry["state"]) == 1
        assert not (entry["ready"] and "running" not in entry["state"]) or entry["name"][0] == "i"
    types = [condition["type"] for condition in status["conditions"]]
    assert len(types) == len(set(types))


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(PODS, STEPS)
def test_a_deleted_pod_always_ends_and_is_deleted_once(pod, steps):
    shell = Shell(pod)
    play(shell, [step for step in steps if step[0] != "vanish"])
    shell.pod = deleted(shell.pod, 5)
    shell.tell(ev.PodSynced(shell.pod))
    for _ in range(6):
        shell.answer_all()
        shell.wait(40.0)
    assert shell.deletes == 1
    assert not shell.alive
    assert shell.phase in TERMINAL
    assert shell.machine.next_deadline() is None


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(PODS, STEPS)
def test_with_restart_policy_never_no_main_container_runs_twice(pod, steps):
    shell = Shell(pod)
    play(shell, steps)
    rules = any(entry.get("restartPolicyRules") for entry in pod["spec"]["containers"])
    for record in shell.machine.containers:
        if pod["spec"]["restartPolicy"] == "Never" and record.plan.kind == "main" and not rules:
            assert record.restart_count == 0


# Restart policies ------------------------------------------------------------------------------


def test_restart_policy_table():
    for policy, code, phase in (
        ("Never", 0, "Succeeded"),
        ("Never", 1, "Failed"),
        ("OnFailure", 0, "Succeeded"),
        ("OnFailure", 1, "Running"),
        ("Always", 0, "Running"),
        ("Always", 1, "Running"),
    ):
        shell = running(pod_of(policy=policy))
        shell.exit("main", code)
        shell.answer_all()
        assert (policy, code, shell.phase) == (policy, code, phase)


def test_crash_back_off_doubles_from_ten_seconds_to_five_minutes():
    shell = running(pod_of())
    delays = []
    for _ in range(8):
        ended = shell.now
        shell.exit("main", 1)
        while not shell.open:
            shell.wait(1)
        delays.append(shell.starts["main"][-1] - ended)
        shell.answer_all()
    assert delays == [0, 10, 20, 40, 80, 160, 300, 300]


def test_crash_loop_shows_reason_message_and_last_state():
    shell = running(pod_of())
    shell.exit("main", 3)
    shell.answer_all()
    shell.exit("main", 3)
    state = shell.state()
    assert state["state"]["waiting"]["reason"] == "CrashLoopBackOff"
    assert state["state"]["waiting"]["message"] == (
        "back-off 10s restarting failed container=main pod=p_ns(u1)"
    )
    assert state["lastState"]["terminated"]["exitCode"] == 3
    assert state["restartCount"] == 1
    assert ("BackOff", "Back-off restarting failed container main in pod p_ns(u1)") in shell.records


def test_a_long_run_resets_the_back_off():
    shell = running(pod_of())
    for _ in range(3):
        shell.exit("main", 1)
        shell.wait(60)
        shell.answer_all()
    shell.wait(700)
    before = len(shell.starts["main"])
    shell.exit("main", 1)
    assert len(shell.starts["main"]) == before + 1


def test_restart_rules_of_a_container_come_before_the_pods_policy():
    rules = [{"action": "Restart", "exitCodes": {"operator": "In", "values": [42]}}]
    entry = {"name": "main", "restartPolicy": "Never", "restartPolicyRules": rules}
    shell = running(pod_of(entry, policy="Never"))
    shell.exit("main", 42)
    assert len(shell.starts["main"]) == 2
    shell.answer_all()
    shell.exit("main", 1)
    shell.answer_all()
    assert shell.phase == "Failed"


def test_the_first_rule_that_matches_decides():
    rules = [
        {"action": "Restart", "exitCodes": {"operator": "In", "values": [42]}},
        {"action": "RestartAllContainers", "exitCodes": {"operator": "NotIn", "values": [0]}},
    ]
    entry = {"name": "a", "restartPolicy": "Never", "restartPolicyRules": rules}
    shell = running(pod_of(entry, {"name": "b"}, policy="Never"))
    shell.exit("a", 42)
    shell.answer_all()
    assert (len(shell.starts["a"]), len(shell.starts["b"])) == (2, 1)
    shell.exit("a", 1)
    shell.answer_all()
    shell.wait(10)
    shell.answer_all()
    assert (len(shell.starts["a"]), len(shell.starts["b"])) == (3, 2)


# Restarting all containers ----------------------------------------------------------------------


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(PODS, STEPS)
def test_a_pod_that_restarts_all_gets_everything_running_again(pod, steps):
    pod["spec"]["containers"][0] |= restarting_all(*range(1, 256), policy="Always")
    pod["spec"].pop("activeDeadlineSeconds", None)
    shell = Shell(pod)
    play(shell, [step for step in steps if step[0] not in ("delete", "vanish", "exit")])
    if shell.phase in TERMINAL:
        return  # an init container failed for good
    for _ in range(12):
        shell.answer_all()
        for name in [name for name, _ in shell.alive if name.startswith("i")]:
            shell.exit(name)
        shell.wait(150.0)
    assert not shell.machine.restarting_all
    assert shell.conditions()["AllContainersRestarting"]["status"] == "False"
    mains = [entry["name"] for entry in pod["spec"]["containers"]]
    alive = {name for name, _ in shell.alive}
    assert alive >= {mains[0]}
    assert all(name in alive or shell.machine.record(name).ended for name in mains)


def test_all_containers_restart_in_order_without_grace_or_hooks():
    hook = {"preStop": {"exec": {}}}
    probe = {"periodSeconds": 1, "exec": {"command": ["true"]}}
    side = {"name": "side", "restartPolicy": "Always", "startupProbe": probe}
    mains = ({"name": "a"} | restarting_all(7), {"name": "b", "lifecycle": hook}, {"name": "c"})
    shell = running(pod_of(*mains, init=({"name": "setup"}, side), policy="Never"))
    shell.exit("setup")
    for _ in range(3):
        shell.answer_all()
        shell.wait(1)
    assert [len(shell.starts[name]) for name in ("setup", "side", "a", "b", "c")] == [1] * 5
    shell.exit("c", 0)
    shell.exit("a", 7)
    condition = shell.conditions()["AllContainersRestarting"]
    assert (condition["status"], condition["reason"]) == ("True", "RestartAllContainersStarted")
    assert condition["message"] == "Container a exited with code 7, triggering pod restart"
    assert [(name, signal) for _, name, signal in shell.signals] == [
        ("side", "SIGKILL"),
        ("b", "SIGKILL"),
    ]
    assert not any(isinstance(item, ev.RunHook) for item in shell.open)
    while any(isinstance(item, ev.SignalContainer) for item in shell.open):
        shell.answer(next(item for item in shell.open if isinstance(item, ev.SignalContainer)))
    assert shell.conditions()["AllContainersRestarting"]["status"] == "False"
    assert shell.conditions()["Initialized"]["status"] == "True", "an initialized pod stays so"
    assert shell.state("b")["lastState"]["terminated"]["exitCode"] == 137
    shell.answer_all()
    assert len(shell.starts["setup"]) == 2
    assert len(shell.starts["side"]) == 1, "one after another, as at the start"
    shell.exit("setup")
    while not any(isinstance(item, ev.RunProbe) for item in shell.open):
        [answered] = shell.open
        shell.answer(answered)
        shell.wait(0.1)
    assert len(shell.starts["a"]) == 1, "the sidecar's startup probe holds the others back"
    shell.answer_all()
    assert [len(shell.starts[name]) for name in ("setup", "side", "a", "b", "c")] == [2] * 5
    assert shell.state("c")["restartCount"] == 1, "also one that had succeeded"
    assert shell.machine.pod_ips == ("127.64.0.1",)
    assert shell.phase == "Running"


def test_a_pod_that_restarts_itself_over_and_over_backs_off():
    shell = running(pod_of({"name": "a"} | restarting_all(7), {"name": "b"}, policy="Never"))
    starts = []
    for _ in range(3):
        ended = shell.now
        shell.exit("a", 7)
        shell.answer_all()
        while len(shell.starts["a"]) < len(starts) + 2:
            shell.wait(1)
            shell.answer_all()
        starts.append(shell.starts["a"][-1] - ended)
    assert starts == [0, 10, 20]


def test_the_end_of_a_pod_is_not_a_restart():
    side = {"name": "side"} | restarting_all(*range(1, 256), policy="Always")
    shell = running(pod_of(init=(side,), policy="Never"))
    shell.exit("main", 0)
    shell.exit("side", 143, 15)
    shell.answer_all()
    assert shell.phase == "Succeeded"
    condition = shell.conditions()["AllContainersRestarting"]
    assert (condition["status"], condition["reason"]) == ("False", "PodCompleted")


def test_a_restart_that_the_agents_end_interrupted_is_finished_by_the_next_one():
    ended = {"exitCode": 137, "reason": "Error", "finishedAt": "2026-01-01T00:01:00Z"}
    pod = interrupted(pod_of(policy="Never"), state={"terminated": ended})
    pod["spec"]["containers"].append({"name": "other", "image": "x"} | restarting_all(7))
    pod["status"]["conditions"] = [{"type": "AllContainersRestarting", "status": "True"}]
    shell = Shell(pod)
    shell.answer_all()
    assert sorted(shell.starts) == ["main", "other"]
    assert shell.phase == "Running"


def adopting(pod, **found):
    """A machine of an agent that finds these containers (name, attempt) of the pod still there."""
    containers = {
        name: AdoptedContainer(attempt, f"kubarium://{name}", "image", 1.0)
        for name, attempt in found.items()
    }
    return resumed(pod, 1000.0, adopted=Adopted(("127.64.0.1",), containers))


def test_an_agent_that_adopts_a_pod_in_the_middle_of_a_restart_goes_on_with_it():
    pod = interrupted(pod_of({"name": "main"} | restarting_all(7), policy="Never"))
    pod["status"]["conditions"] = [{"type": "AllContainersRestarting", "status": "True"}]
    machine = adopting(pod, main=2)
    signals = [i for i in machine.handle(ev.PodSynced(pod), 1000.0) if hasattr(i, "signal")]
    assert signals == [ev.SignalContainer("main", 2, "SIGKILL")]
    answer = machine.handle(ev.ContainerExited("main", 2, 137, 9), 1000.0)
    assert ev.StartContainer("main", 3) in answer


def test_an_agent_that_adopts_a_pod_waits_for_the_sidecars_probe_of_this_round():
    probe = {"periodSeconds": 1, "exec": {"command": ["true"]}}
    side = {"name": "side", "startupProbe": probe} | restarting_all(7, policy="Always")
    ended = {"exitCode": 137, "finishedAt": "2026-01-01T00:01:00Z"}
    waiting = {
        "state": {"waiting": {"reason": "ContainerCreating"}},
        "lastState": {"terminated": ended},
        "restartCount": 0,
    }
    pod = interrupted(pod_of(init=(side,), policy="Never"), **waiting)
    pod["status"]["initContainerStatuses"] = [
        {
            "name": "side",
            "restartCount": 1,
            "state": {"running": {"startedAt": "2026-01-01T00:02:00Z"}},
        }
    ]
    machine = adopting(pod, side=1)
    answer = machine.handle(ev.PodSynced(pod), 1000.0)
    assert not any(isinstance(item, ev.StartContainer) for item in answer)
    answer = machine.handle(ev.ProbeFinished("side", 1, ev.STARTUP, "success"), 1001.0)
    assert ev.StartContainer("main", 1) in answer


def test_pods_without_such_a_rule_do_not_get_the_condition():
    assert "AllContainersRestarting" not in running(pod_of()).conditions()


# Init containers and sidecars ------------------------------------------------------------------


def test_init_containers_run_one_after_another():
    shell = running(pod_of(init=({"name": "a"}, {"name": "b"})))
    assert list(shell.starts) == ["a"]
    assert shell.state()["state"]["waiting"]["reason"] == "PodInitializing"
    shell.exit("a")
    shell.answer_all()
    assert list(shell.starts) == ["a", "b"]
    condition = shell.conditions()["Initialized"]
    assert condition["status"] == "False"
    assert condition["message"] == "containers with incomplete status: [b]"
    shell.exit("b")
    shell.answer_all()
    assert list(shell.starts) == ["a", "b", "main"]
    assert shell.conditions()["Initialized"]["status"] == "True"


def test_a_failed_init_container_fails_a_pod_that_never_restarts():
    shell = running(pod_of(init=({"name": "a"},), policy="Never"))
    shell.exit("a", 1)
    shell.answer_all()
    assert shell.phase == "Failed"
    assert "main" not in shell.starts


def test_a_sidecar_starts_first_and_stops_last():
    side = {"name": "side", "restartPolicy": "Always"}
    shell = running(pod_of(init=(side,), policy="Never"))
    assert list(shell.starts) == ["side", "main"]
    shell.exit("main", 0)
    assert [name for _, name, _ in shell.signals] == ["side"]
    shell.exit("side", 143, 15)
    shell.answer_all()
    assert shell.phase == "Succeeded", "a sidecar's exit code does not count"


# Stopping --------------------------------------------------------------------------------------


def test_grace_period_then_kill():
    shell = running(pod_of())
    start = shell.now
    shell.tell(ev.PodSynced(deleted(shell.pod, 30)))
    shell.wait(40)
    assert shell.signals == [(start, "main", "SIGTERM"), (start + 30, "main", "SIGKILL")]
    shell.answer_all()
    assert shell.deletes == 1
    assert shell.phase == "Failed"


def test_a_second_delete_shortens_the_grace():
    shell = running(pod_of())
    start = shell.now
    shell.tell(ev.PodSynced(deleted(shell.pod, 30)))
    shell.wait(2)
    shell.tell(ev.PodSynced(deleted(shell.pod, 1)))
    shell.wait(5)
    assert shell.signals[-1] == (start + 3, "main", "SIGKILL")


def test_a_pod_that_vanishes_is_killed_at_once():
    shell = running(pod_of())
    shell.tell(ev.PodRemoved())
    assert [signal for _, _, signal in shell.signals] == ["SIGKILL"]
    shell.answer_all()
    assert shell.machine.released
    assert shell.deletes == 0


def test_pre_stop_runs_before_sigterm_and_uses_up_grace():
    entry = {"name": "main", "lifecycle": {"preStop": {"exec": {"command": ["x"]}}}}
    shell = running(pod_of(entry))
    start = shell.now
    shell.tell(ev.PodSynced(deleted(shell.pod, 10)))
    assert shell.signals == []
    shell.wait(20)
    assert shell.signals == [(start + 10, "main", "SIGTERM"), (start + 12, "main", "SIGKILL")]


def test_active_deadline_fails_the_pod():
    shell = running(pod_of(activeDeadlineSeconds=60))
    shell.wait(61)
    shell.exit("main", 143, 15)
    shell.answer_all()
    status = pod_status(shell.machine, "127.0.0.1", shell.now)
    assert (status["phase"], status["reason"]) == ("Failed", "DeadlineExceeded")
    assert status["message"] == ("Pod was active on the node longer than the specified deadline")


def test_a_container_stays_ready_while_it_is_being_stopped_until_its_probe_says_otherwise():
    entry = {
        "name": "main",
        "readinessProbe": probe(periodSeconds=2, failureThreshold=1),
        "livenessProbe": probe(periodSeconds=1),
    }
    shell = running(pod_of(entry))
    shell.tell(ev.PodSynced(deleted(shell.pod, 30)))
    assert shell.conditions()["Ready"]["status"] == "True", "so that endpoints are still serving"
    shell.wait(2)
    assert [probe.kind for probe in shell.open] == ["readinessProbe"], "liveness is asked no more"
    shell.answer(shell.open[0], good=False)
    assert shell.conditions()["Ready"]["status"] == "False"
    assert shell.phase == "Running"


def test_a_pod_without_probes_is_ready_until_its_containers_have_ended():
    shell = running(pod_of())
    shell.tell(ev.PodSynced(deleted(shell.pod, 30)))
    assert shell.state()["ready"]
    shell.exit("main", 143, 15)
    assert not shell.state()["ready"]


# Hooks -----------------------------------------------------------------------------------------


POST_START = {"name": "main", "lifecycle": {"postStart": {"exec": {"command": ["x"]}}}}


def until_hook(pod):
    """A pod whose first container runs its postStart hook."""
    shell = Shell(pod)
    while not any(isinstance(asked, ev.RunHook) for asked in shell.open):
        shell.answer(shell.open[0])
    return shell


def test_a_container_is_not_running_before_its_post_start_hook_has_ended():
    entry = POST_START | {"livenessProbe": probe(periodSeconds=1)}
    shell = until_hook(pod_of(entry))
    shell.wait(5)
    assert shell.state()["state"] == {"waiting": {"reason": "ContainerCreating"}}
    assert (shell.state()["ready"], shell.state()["started"], shell.phase) == (
        False,
        False,
        "Pending",
    )
    assert [type(asked) for asked in shell.open] == [ev.RunHook], "no probe before"
    shell.answer(shell.open[0])
    assert "running" in shell.state()["state"]
    assert (shell.state()["started"], shell.phase) == (True, "Running")
    assert [asked.kind for asked in shell.open] == ["livenessProbe"]


def test_containers_start_one_after_the_other_where_one_has_a_post_start_hook():
    shell = until_hook(pod_of(POST_START, {"name": "second"}))
    assert list(shell.starts) == ["main"]
    shell.answer_all()
    assert list(shell.starts) == ["main", "second"]


def test_an_init_container_waits_for_the_hook_of_the_sidecar_before_it():
    side = POST_START | {"name": "side", "restartPolicy": "Always"}
    shell = until_hook(pod_of(init=(side, {"name": "init"})))
    assert list(shell.starts) == ["side"]
    shell.answer(shell.open[0])
    assert list(shell.starts) == ["side", "init"]


def test_a_failed_post_start_hook_ends_the_container():
    shell = until_hook(pod_of(POST_START))
    shell.answer(shell.open[0], good=False)
    assert ("Killing", "FailedPostStartHook") in shell.records
    assert [signal for _, _, signal in shell.signals] == ["SIGTERM"]


# Images and configuration ----------------------------------------------------------------------


def test_an_unknown_image_backs_off_and_is_tried_again():
    shell = Shell(pod_of())
    shell.answer(shell.open[0])
    shell.answer(shell.open[0], good=False)
    assert shell.state()["state"]["waiting"]["reason"] == "ErrImagePull"
    shell.wait(2)
    waiting = shell.state()["state"]["waiting"]
    assert waiting["reason"] == "ImagePullBackOff"
    assert waiting["message"] == 'Back-off pulling image "busybox": ErrImagePull: unknown'
    assert shell.phase == "Pending"
    shell.wait(10)
    shell.answer_all()
    assert shell.phase == "Running"
    assert shell.state()["restartCount"] == 0


def test_a_command_that_does_not_exist_fails_a_pod_that_never_restarts():
    shell = Shell(pod_of(policy="Never"))
    shell.answer(shell.open[0])
    shell.open.clear()
    shell.tell(ev.ContainerStartFailed("main", 0, "StartError", "exec: no"))
    shell.answer_all()
    ended = shell.state()["state"]["terminated"]
    assert (ended["exitCode"], ended["reason"], ended["message"]) == (128, "StartError", "exec: no")
    assert shell.phase == "Failed"


def test_mount_failures_are_retried_with_growing_delays():
    shell = Shell(pod_of())
    times = []
    for _ in range(4):
        shell.answer(shell.open[0], good=False)
        before = shell.now
        while not shell.open:
            shell.wait(0.25)
        times.append(shell.now - before)
    assert times == [0.5, 1.0, 2.0, 4.0]
    assert ("FailedMount", "no such thing") in shell.records


# Probes ----------------------------------------------------------------------------------------


def probe(**values):
    return {"exec": {"command": ["true"]}} | values


def test_readiness_needs_its_threshold_and_is_lost_after_failures():
    entry = {
        "name": "main",
        "readinessProbe": probe(periodSeconds=2, successThreshold=2, failureThreshold=2),
    }
    shell = running(pod_of(entry))
    assert not shell.state()["ready"]
    shell.wait(2)
    shell.answer_all()
    assert shell.state()["ready"]
    for _ in range(2):
        assert shell.state()["ready"]
        shell.wait(2)
        shell.answer(shell.open[0], good=False)
    assert not shell.state()["ready"]
    message = "containers with unready status: [main]"
    assert shell.conditions()["Ready"]["message"] == message
    assert ("Unhealthy", "Readiness probe failed: no") in shell.records


def test_liveness_failures_restart_the_container():
    entry = {"name": "main", "livenessProbe": probe(periodSeconds=1, failureThreshold=3)}
    shell = running(pod_of(entry))
    for _ in range(3):
        shell.wait(1)
        shell.answer(shell.open[0], good=False)
    assert ("Killing", "Container main failed liveness probe, will be restarted") in shell.records
    shell.exit("main", 143, 15)
    shell.answer_all()
    assert shell.state()["restartCount"] == 1


def test_a_startup_probe_holds_back_the_others():
    entry = {
        "name": "main",
        "startupProbe": probe(periodSeconds=1, failureThreshold=10),
        "livenessProbe": probe(),
        "readinessProbe": probe(),
    }
    shell = Shell(pod_of(entry))
    shell.answer(shell.open[0])
    shell.answer(shell.open[0])
    kinds = {i.kind for i in shell.open}
    assert kinds == {"startupProbe"}
    assert not shell.state()["started"]
    shell.answer(shell.open[0])
    assert {i.kind for i in shell.open} == {"livenessProbe", "readinessProbe"}
    assert shell.state()["started"]


def test_a_probe_that_cannot_be_made_is_thrown_away():
    entry = {
        "name": "main",
        "livenessProbe": probe(periodSeconds=1, failureThreshold=1),
        "readinessProbe": probe(periodSeconds=1, failureThreshold=1),
    }
    shell = running(pod_of(entry))
    for kind in ("livenessProbe", "readinessProbe"):
        shell.tell(ev.ProbeFinished("main", 0, kind, "error", "couldn't find port: web"))
    assert ("Unhealthy", "Liveness probe errored: couldn't find port: web") in shell.records
    assert (shell.signals, shell.state()["ready"]) == ([], True)
    shell.wait(1)
    assert {asked.kind for asked in shell.open} == {"livenessProbe", "readinessProbe"}


# Restarted agent, quality of service -----------------------------------------------------------


def test_a_pod_that_had_ended_is_not_run_again():
    pod = pod_of() | {"status": {"phase": "Succeeded", "startTime": "2026-01-01T00:00:00Z"}}
    shell = Shell(pod)
    assert shell.open == []
    assert shell.phase == "Succeeded"
    shell.tell(ev.PodSynced(deleted(pod)))
    assert shell.deletes == 1


def test_a_pod_that_its_node_refuses_has_no_containers_that_wait():
    pod = pod_of(init=({"name": "init"},))
    machine = resumed(pod, 1000.0)
    machine.handle(ev.Terminate("SysctlForbidden", "Pod was rejected: no"), 1000.0)
    shell = Shell(pod, machine=machine)
    shell.answer_all()
    status = pod_status(shell.machine, "127.0.0.1", shell.now)
    assert (status["phase"], status["reason"]) == ("Failed", "SysctlForbidden")
    assert not [name for name in status if name.lower().endswith("containerstatuses")]


def test_what_is_known_of_a_pod_that_had_ended_stands():
    pod = interrupted(
        pod_of(policy="Never"),
        state={"terminated": {"exitCode": 3, "reason": "Error", "containerID": "kubarium://x"}},
    )
    condition = {"type": "Ready", "status": "False", "reason": "PodFailed"}
    pod["status"] |= {"phase": "Failed", "reason": "Evicted", "conditions": [condition]}
    shell = Shell(pod)
    status = pod_status(shell.machine, "127.0.0.9", shell.now)
    assert status == pod["status"] | {"observedGeneration": 1}


def test_no_container_of_an_ended_pod_waits():
    side = {"name": "side", "restartPolicy": "Always"}
    shell = running(pod_of(init=(side,), policy="Never"))
    for _ in range(2):
        shell.exit("side", 5)
        shell.answer_all()
    assert shell.state("side")["state"]["waiting"]["reason"] == "CrashLoopBackOff"
    shell.exit("main", 0)
    shell.answer_all()
    assert (shell.phase, shell.state("side")["restartCount"]) == ("Succeeded", 1)
    assert shell.state("side")["state"]["terminated"]["exitCode"] == 5


def interrupted(pod, **entry):
    """What an agent left behind that was killed while the container ran."""
    status = {
        "phase": "Running",
        "startTime": "2026-01-01T00:00:00Z",
        "podIPs": [{"ip": "127.64.0.5"}],
        "containerStatuses": [
            {
                "name": "main",
                "restartCount": 2,
                "state": {"running": {"startedAt": "2026-01-01T00:00:01Z"}},
                "containerID": "kubarium://x",
            }
            | entry
        ],
    }
    return pod | {"status": status}


def test_a_container_lost_with_its_agent_counts_as_an_attempt():
    shell = Shell(interrupted(pod_of()))
    shell.answer_all()
    state = shell.state()
    assert shell.phase == "Running"
    assert state["restartCount"] == 3
    assert state["lastState"]["terminated"]["reason"] == "ContainerStatusUnknown"
    assert state["lastState"]["terminated"]["exitCode"] == 137


def test_a_lost_container_fails_a_pod_that_never_restarts():
    shell = Shell(interrupted(pod_of(policy="Never")))
    shell.answer_all()
    assert shell.starts == {}
    assert shell.phase == "Failed"


def test_what_had_ended_before_the_restart_stays_ended():
    ended = {"exitCode": 0, "reason": "Completed", "finishedAt": "2026-01-01T00:01:00Z"}
    pod = interrupted(pod_of(policy="OnFailure"), state={"terminated": ended})
    shell = Shell(pod)
    shell.answer_all()
    assert (shell.starts, shell.phase) == ({}, "Succeeded")


def test_init_containers_run_again_for_a_new_sandbox():
    pod = interrupted(pod_of(init=({"name": "a"},)))
    ended = {"exitCode": 0, "reason": "Completed", "finishedAt": "2026-01-01T00:01:00Z"}
    pod["status"]["initContainerStatuses"] = [
        {"name": "a", "restartCount": 0, "state": {"terminated": ended}}
    ]
    shell = Shell(pod)
    shell.answer_all()
    assert list(shell.starts) == ["a"]


def test_conditions_of_others_survive():
    shell = running(pod_of())
    foreign = {"type": "DisruptionTarget", "status": "True", "reason": "PreemptionByScheduler"}
    shell.machine.pod = shell.pod | {"status": {"conditions": [foreign]}}
    assert shell.conditions()["DisruptionTarget"] == foreign
    assert shell.conditions()["Ready"]["status"] == "True"


def test_readiness_gates_hold_back_ready_but_not_the_containers():
    shell = running(pod_of(readinessGates=[{"conditionType": "x.io/up"}]))
    conditions = shell.conditions()
    assert conditions["ContainersReady"]["status"] == "True"
    assert conditions["Ready"]["reason"] == "ReadinessGatesNotReady"


def test_quality_of_service_table():
    full = {"cpu": "1", "memory": "1Gi"}
    for resources, expected in (
        ({}, "BestEffort"),
        ({"limits": full}, "Guaranteed"),
        ({"limits": full, "requests": full}, "Guaranteed"),
        ({"limits": full, "requests": {"cpu": "1000m", "memory": "1024Mi"}}, "Guaranteed"),
        ({"requests": {"cpu": "1"}}, "Burstable"),
        ({"limits": {"cpu": "1"}}, "Burstable"),
    ):
        assert qos_class(pod_of({"name": "c", "resources": resources})) == expected


def test_states_and_table_agree():
    assert {state.value for state in State} == {
        "waiting",
        "starting",
        "running",
        "stopping",
        "exited",
    }


GROWS = {"kubarium.dev/oom-policy": "grow", "kubarium.dev/oom-ceiling": "300Mi"}
LIMITED = {"name": "main", "resources": {"limits": {"memory": "100Mi"}}}


def killed_for_memory(annotations):
    """A pod that runs, whose container the kernel has just killed at its limit."""
    pod = pod_of(LIMITED)
    pod["metadata"]["annotations"] = annotations
    shell = Shell(pod)
    shell.answer_all()
    shell.wait(1)
    shell.tell(ev.ConditionNoted("memory.kubarium.dev/main", "Killed", "was killed"))
    del shell.alive["main", 0]
    shell.tell(ev.ContainerExited("main", 0, 137, 9, oom_killed=True))
    return shell


def test_what_was_killed_for_its_memory_begins_anew_with_the_limit_that_it_was_promised():
    shell = killed_for_memory(GROWS)
    shell.wait(1)
    assert len(shell.starts["main"]) == 1
    more = {"main": {"limits": {"memory": "150Mi"}}}
    shell.tell(ev.Resized(more, more, ()))
    assert len(shell.starts["main"]) == 2
    assert shell.machine.allocated == more


def test_a_promise_that_is_not_kept_is_not_waited_for_long():
    shell = killed_for_memory(GROWS)
    killed_at = shell.now
    shell.wait(6)
    assert shell.starts["main"][1] == killed_at + 5


def test_without_the_promise_of_more_memory_nothing_waits():
    for given_by_pod in ({}, {**GROWS, "kubarium.dev/oom-ceiling": "100Mi"}):
        assert len(killed_for_memory(given_by_pod).starts["main"]) == 2
