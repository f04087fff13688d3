"""The launcher before a rank's command: attempts, variables, ends."""

import json
import os
import signal
import subprocess
import sys
import time

import psutil
import pytest

from kubarium.train.launch import environment, installed_imports, python_call

WORLD = {"attempt": 3, "rank": 1, "world": 4, "master": "10.0.0.7"}


def test_every_attempt_has_its_rank_and_a_port_of_its_own():
    found = environment(WORLD, {"MASTER_PORT": "4000"})
    assert (found["RANK"], found["WORLD_SIZE"], found["MASTER_ADDR"]) == ("1", "4", "10.0.0.7")
    assert (found["MASTER_PORT"], found["JOB_COMPLETION_INDEX"]) == ("4002", "1")
    assert environment({**WORLD, "attempt": 4}, {})["MASTER_PORT"] == "29503"
    assert "PET_NNODES" not in found


def test_variables_of_other_launchers_follow_where_they_are_set():
    given = {"PET_NNODES": "9", "PET_MASTER_PORT": "29400", "JAX_PROCESS_ID": "0"}
    found = environment(WORLD, given)
    assert (found["PET_NNODES"], found["PET_MASTER_PORT"]) == ("4", "29402")
    assert found["JAX_PROCESS_ID"] == "1"
    assert "JAX_COORDINATOR_ADDRESS" not in found


def test_which_commands_this_interpreter_can_run(tmp_path):
    script = tmp_path / "train.py"
    script.touch()
    assert python_call(["python", "-m", "pkg.train", "--lr", "1"]) == (
        "-m",
        "pkg.train",
        ["--lr", "1"],
        False,
    )
    assert python_call(["python3", "-u", str(script), "x"]) == ("script", str(script), ["x"], True)
    assert python_call(["python3.11", "-c", "pass"]) == ("-c", "pass", [], False)
    assert python_call(["python3", "-O", str(script)]) is None
    assert python_call(["torchrun", str(script)]) is None
    assert python_call(["pythonista", str(script)]) is None


def test_only_what_is_installed_is_imported_ahead(tmp_path):
    source = "import json.decoder\nimport my_own_model\nfrom . import beside\nfrom numpy import a"
    assert installed_imports(source) == ["json.decoder", "numpy"]


class Pod:
    """A launcher, and the node's part of the talk."""

    def __init__(self, folder, program):
        self.folder = folder
        self.process = subprocess.Popen(
            [sys.executable, "-m", "kubarium.train.launch", "--", sys.executable, "-c", program],
            env={**os.environ, "KUBARIUM_TRAIN_DIR": str(folder), "OUT": str(folder / "out")},
        )

    def tell(self, **world):
        path = self.folder / "world.json"
        beside = path.with_suffix(".new")
        beside.write_text(json.dumps({"rank": 0, "world": 1, "master": "::1", **world}))
        beside.rename(path)

    def until(self, state, attempt):
        deadline = time.monotonic() + 20
        while time.monotonic() < deadline:
            try:
                found = json.loads((self.folder / "launch.json").read_text())
            except (OSError, ValueError):
                found = {}
            if (found.get("state"), found.get("attempt")) == (state, attempt):
                return found
            time.sleep(0.01)
        raise AssertionError(f"never {state} in attempt {attempt}")

    def said(self):
        return (self.folder / "out").read_text().splitlines()


@pytest.fixture
def pod(tmp_path):
    made = []

    def start(program):
        made.append(Pod(tmp_path, program))
        return made[0]

    yield start
    for one in made:
        one.process.kill()
        one.process.wait()


SAY = "import os; open(os.environ['OUT'], 'a').write(os.environ['RANK'] + '\\n')\n"


def test_a_command_is_started_anew_in_the_same_pod_and_ends_with_its_gang(pod):
    one = pod(SAY + "raise SystemExit(0 if os.environ['RANK'] == '2' else 7)")
    one.until("Waiting", 0)
    one.tell(attempt=1, rank=1)
    assert one.until("Failed", 1)["code"] == 7
    one.tell(attempt=2, rank=2)
    one.until("Succeeded", 2)
    assert one.process.poll() is None, "it waits until the others have succeeded too"
    one.tell(attempt=2, rank=2, done=True)
    assert one.process.wait(timeout=10) == 0
    assert one.said() == ["1", "2"]


def test_a_gang_that_is_given_up_ends_with_the_commands_code(pod):
    one = pod("raise SystemExit(7)")
    one.tell(attempt=1)
    # What stood there when it came up was for a launcher before it.
    one.until("Waiting", 0)
    one.tell(attempt=2)
    one.until("Failed", 2)
    one.tell(attempt=2, giveUp=True)
    assert one.process.wait(timeout=10) == 7


def test_a_command_that_runs_makes_way_gently_where_there_is_time(pod):
    program = SAY + (
        "import signal, sys, time\n"
        "def stop(*_):\n"
        "    open(os.environ['OUT'], 'a').write('saved\\n'); sys.exit(143)\n"
        "signal.signal(signal.SIGTERM, stop)\n"
        "time.sleep(60)\n"
    )
    one = pod(program)
    one.until("Waiting", 0)
    one.tell(attempt=1)
    one.until("Running", 1)
    time.sleep(0.5)
    one.tell(attempt=2, gentle=True)
    one.until("Running", 2)
    time.sleep(0.5)
    assert one.said() == ["0", "saved", "0"]
    one.tell(attempt=3)
    one.until("Running", 3)
    assert "saved" not in one.said()[2:]


def test_a_signal_to_the_pod_reaches_the_command(pod):
    one = pod("import time; time.sleep(60)")
    one.until("Waiting", 0)
    one.tell(attempt=1)
    one.until("Running", 1)
    time.sleep(0.3)
    one.process.send_signal(signal.SIGTERM)
    assert one.process.wait(timeout=10) == 143


def test_the_command_goes_with_its_launcher(pod):
    one = pod(
        SAY + "open(os.environ['OUT'], 'a').write(f'{os.getpid()}\\n')\nimport time; time.sleep(60)"
    )
    one.until("Waiting", 0)
    one.tell(attempt=1)
    deadline = time.monotonic() + 10
    while not (one.folder / "out").exists() or len(one.said()) < 2:
        assert time.monotonic() < deadline
        time.sleep(0.01)
    pid = int(one.said()[1])
    one.process.kill()
    one.process.wait()
    while _runs(pid):
        assert time.monotonic() < deadline
        time.sleep(0.01)


def _runs(pid):
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def test_a_command_that_does_not_exist_fails_as_anywhere(tmp_path):
    folder = tmp_path / "train"
    folder.mkdir()
    process = subprocess.Popen(
        [sys.executable, "-m", "kubarium.train.launch", "--", "no-such-program"],
        env={**os.environ, "KUBARIUM_TRAIN_DIR": str(folder)},
        stderr=subprocess.DEVNULL,
    )
    try:
        one = Pod.__new__(Pod)
        one.folder, one.process = folder, process
        one.until("Waiting", 0)
        one.tell(attempt=1)
        assert one.until("Failed", 1)["code"] == 127
    finally:
        process.kill()
        process.wait()
