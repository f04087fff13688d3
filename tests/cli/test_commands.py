"""The command as a user meets it: real processes, exit codes, and errors without a traceback."""

import asyncio
import json
import os
import socket
import stat
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
import yaml
from typer.testing import CliRunner

from kubarium.cli.main import app
from tests.conftest import ROOT

pytestmark = pytest.mark.timeout(120)

JOB = """
apiVersion: batch/v1
kind: Job
metadata: {{name: {name}}}
spec:
  backoffLimit: 0
  template:
    spec:
      restartPolicy: Never
      containers:
        - {{name: c, image: busybox, command: ["sh", "-c", "{command}"]}}
"""


class User:
    """Someone with a home of their own."""

    def __init__(self, home: Path) -> None:
        self.home = home
        self.kubeconfig = home / "kube" / "config"
        self.environment = os.environ | {
            "HOME": str(home),
            "KUBARIUM_HOME": str(home / "clusters-of-mine"),
            "KUBECONFIG": str(self.kubeconfig),
            "COLUMNS": "200",
            "NO_COLOR": "1",
        }

    def __call__(self, *arguments: str, code: int = 0, stdin: str = "") -> str:
        """What the command says on both streams."""
        done = subprocess.run(
            [sys.executable, "-m", "kubarium.cli.main", *arguments],
            env=self.environment,
            input=stdin,
            capture_output=True,
            text=True,
            timeout=90,
        )
        said = done.stdout + done.stderr
        assert "Traceback" not in said, said
        assert done.returncode == code, f"{done.returncode}: {said}"
        return said

    def here(self, *arguments: str, code: int = 0) -> str:
        """The same without a process, five times as fast: for commands that start nothing."""
        done = CliRunner().invoke(app, arguments, env=self.environment, prog_name="kubarium")
        if done.exception is not None and not isinstance(done.exception, SystemExit):
            raise done.exception
        assert done.exit_code == code, f"{done.exit_code}: {done.output}"
        return done.output

    def file(self, name: str, text: str) -> str:
        path = self.home / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        return str(path)

    @property
    def record(self) -> Path:
        return self.home / "clusters-of-mine" / "clusters" / "kubarium" / "server.json"


@pytest.fixture
def user(tmp_path):
    someone = User(tmp_path)
    yield someone
    if not someone.record.parent.exists():
        return
    subprocess.run(
        [sys.executable, "-m", "kubarium.cli.main", "reset"],
        env=someone.environment,
        capture_output=True,
        timeout=60,
    )


@pytest.fixture(scope="module")
def running(tmp_path_factory):
    """A user whose cluster runs, with something waiting in it."""
    someone = User(tmp_path_factory.mktemp("user"))
    someone("up", "--detach", "-f", someone.file("cluster.yaml", CLUSTER))
    yield someone
    someone("reset")


CLUSTER = """
apiVersion: kubarium.dev/v1alpha1
kind: Cluster
spec:
  nodePools:
    - name: worker
      count: 1
      devices:
        - {profile: gpu.example.com, count: 1}
"""


# help and arguments

COMMANDS = ("up", "down", "reset", "status", "why", "run", "devices", "mcp", "demo", "version")


def test_help_lists_every_command(user):
    said = user("--help")
    assert not [name for name in COMMANDS if f" {name} " not in said]


@pytest.mark.parametrize("command", ["up", "why", "run", "mcp"])
def test_help_of_a_command(user, command):
    said = user.here(command, "--help")
    assert f"kubarium {command}" in said.replace("python -m kubarium.cli.main", "kubarium")


def test_arguments_that_are_wrong(user):
    assert "No such command" in user("upp", code=2)
    assert "No such option" in user.here("up", "--nope", code=2)
    assert "1 to 20000" in user.here("up", "--nodes", "0", code=2)
    assert "valid integer" in user.here("up", "--nodes", "many", code=2)
    assert "--port 99999: give 1 to 65535" in user.here("up", "--port", "99999", code=2)
    assert "exclude each other" in user.here("up", "--nodes", "2", "-f", "x.yaml", code=2)
    assert "'A_b'" in user.here("up", "--name", "A_b", code=2)
    assert "'../x'" in user.here("reset", "--name", "../x", code=2)
    assert "0 to 1024" in user.here("devices", "n", "--driver", "d", "--count", "-1", code=2)
    assert "kubarium 0." in user("version")


# cluster files

TYPOS = {
    "an unknown field": ("count: 1", "cout: 1", ":7:", "'cout'", "'count'"),
    "a wrong type": ("count: 1", "count: two", ":7:", "spec.nodePools[0].count", "'two'"),
    "out of range": ("count: 1", "count: 0", ":7:", "spec.nodePools[0].count", "0 is outside"),
    "an unknown profile": ("gpu.example.com", "gpuexample", ":9:", "'gpuexample'", "nvidia"),
    "another version": ("v1alpha1", "v9", ":2:", "v9", "kubarium.dev/v1alpha1"),
    "no name": ("name: worker", "runtime: process", ":6:", "'name' is missing"),
    "a bad quantity": (
        "count: 1",
        "capacity: {cpu: lots}",
        ":7:",
        "spec.nodePools[0].capacity.cpu",
        "lots",
    ),
    "twice": ("count: 1", "name: other", ":7:", "'name'", "line 6"),
    "not YAML": ("count: 1", "count: [", "not valid YAML"),
}


@pytest.mark.parametrize("case", TYPOS)
def test_a_typo_in_a_cluster_file_points_at_its_line(user, case):
    before, after, *words = TYPOS[case]
    assert before in CLUSTER
    path = user.file("cluster.yaml", CLUSTER.replace(before, after, 1))
    said = user.here("up", "--detach", "-f", path, code=2)
    assert "cluster.yaml" in said
    assert not [word for word in words if word not in said], said
    assert not user.record.exists()


def test_cluster_files_that_are_not_there_or_something_else(user):
    assert "nope.yaml: cannot be read" in user.here("up", "-d", "-f", "nope.yaml", code=2)
    assert "cannot be read" in user.here("up", "-d", "-f", str(user.home), code=2)
    binary = user.home / "binary.yaml"
    binary.write_bytes(b"\xff\xfe\x00")
    assert "cannot be read" in user.here("up", "-d", "-f", str(binary), code=2)
    assert "YAML mapping" in user.here("up", "-d", "-f", user.file("list.yaml", "[]"), code=2)
    assert "holds 0" in user.here("up", "-d", "-f", user.file("empty.yaml", ""), code=2)


# up and down


def test_up_twice_down_twice(user):
    assert "is up at https://127.0.0.1:" in user("up", "--detach")
    assert stat.S_IMODE(user.kubeconfig.stat().st_mode) == 0o600
    assert stat.S_IMODE(user.record.stat().st_mode) == 0o600
    assert "runs already at" in user("up", "--detach")
    assert "1 to 20000" in user.here("up", "--nodes", "0", code=2)
    assert "cannot be read" in user.here("up", "-f", "nope.yaml", code=2)
    pid = json.loads(user.record.read_text())["pid"]
    assert "is down" in user("down")
    assert not psutil.pid_exists(pid)
    assert yaml.safe_load(user.kubeconfig.read_text())["contexts"] == []
    assert "does not run" in user("down")
    assert "does not run" in user("status", code=2)
    assert "is forgotten" in user("reset")
    assert "is forgotten" in user("reset")


def test_a_port_that_is_taken(user):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        said = user("up", "--detach", "--port", port, code=2)
    assert f"--port {port}: cannot listen" in said
    assert not user.record.exists()


def test_a_home_that_cannot_be_used(user):
    user.environment["KUBARIUM_HOME"] = user.file("not-a-folder", "")
    said = user.here("up", "--detach", code=2)
    assert "cannot be created" in said
    assert "KUBARIUM_HOME" in said
    user.environment["KUBARIUM_HOME"] = "/proc/nowhere"
    assert "cannot be created" in user.here("up", "--detach", code=2)


def test_a_store_that_is_no_database(user):
    user("up", "--detach")
    user("down")
    (user.record.parent / "store.db").write_bytes(b"this is no database" * 1000)
    for path in user.record.parent.glob("store.db-*"):
        path.unlink()
    said = user("up", "--detach", code=2)
    assert "store.db" in said


def test_a_stale_record_whose_pid_is_someone_elses(user):
    """The process that has the pid now is not ours, and must not be killed."""
    other = subprocess.Popen(["sleep", "60"])
    try:
        stale = {"pid": other.pid, "started": 1.0, "url": "https://127.0.0.1:1", "context": "x"}
        user.file(str(user.record.relative_to(user.home)), json.dumps(stale))
        assert "does not run" in user("status", code=2)
        assert "does not run" in user("down")
        assert other.poll() is None
        user.file(str(user.record.relative_to(user.home)), "{half")
        assert "is up at" in user("up", "--detach")
        assert other.poll() is None
    finally:
        other.kill()
        other.wait()


def test_a_kubeconfig_that_is_not_understood_is_left_alone(user):
    for text in ("{[", "- a list\n", "contexts: 5\n"):
        path = user.file("kube/config", text)
        said = user("up", "--detach", code=2)
        assert "left as it is" in said
        assert Path(path).read_text() == text
        assert not user.record.exists()


def test_other_contexts_in_the_kubeconfig_stay(user):
    theirs = {"name": "theirs", "context": {"cluster": "c", "user": "u"}}
    document = {"contexts": [theirs], "current-context": "theirs", "kind": "Config"}
    user.file("kube/config", yaml.safe_dump(document))
    user("up", "--detach")
    merged = yaml.safe_load(user.kubeconfig.read_text())
    assert merged["current-context"] == "kubarium"
    assert theirs in merged["contexts"]
    user("down")
    left = yaml.safe_load(user.kubeconfig.read_text())
    assert left["current-context"] == "theirs"
    assert left["contexts"] == [theirs]


# run


def test_run_succeeds(user):
    path = user.file("job.yaml", JOB.format(name="fine", command="echo done"))
    said = user("run", "-f", path)
    assert "all succeeded" in said
    assert "default/fine-" in said
    assert "Succeeded" in said
    assert "█" in said


def test_run_fails(user):
    path = user.file("job.yaml", JOB.format(name="broken", command="exit 3"))
    assert "jobs/broken: failed" in user("run", "-f", path, code=1)


def test_run_out_of_time(user):
    path = user.file("job.yaml", JOB.format(name="slow", command="sleep 60"))
    said = user("run", "-f", path, "--timeout", "2", code=1)
    assert "jobs/slow: waiting after 2 s" in said


def test_run_with_manifests_that_are_wrong(user):
    assert "cannot be read" in user.here("run", "-f", "nope.yaml", code=2)
    assert "bad.yaml:2" in user.here("run", "-f", user.file("bad.yaml", "a: 1\n\tb: 2\n"), code=2)
    assert "no kind" in user.here("run", "-f", user.file("k.yaml", "apiVersion: v1\n"), code=2)
    assert "no objects" in user.here("run", "-f", user.file("e.yaml", "---\n"), code=2)
    unknown = user.file("u.yaml", "apiVersion: v9\nkind: Thing\nmetadata: {name: a}\n")
    assert "'Thing'" in user("run", "-f", unknown, code=2)
    job = JOB.format(name="A_b", command="true")
    said = user("run", "-f", user.file("n.yaml", job), code=1)
    assert 'metadata.name: Invalid value: "A_b"' in said
    for text, word in {
        "kind: Pod\nmetadata: 5\n": "metadata must be a mapping: 5",
        "kind: List\nitems: 5\n": "items must be a list",
        "kind: Pod\nmetadata: {name: 5}\n": "metadata.name must be text, but is 5",
        "kind: Pod\nmetadata: {name: a, namespace: [b]}\n": "metadata.namespace",
    }.items():
        path = user.file("shape.yaml", f"apiVersion: v1\n{text}")
        assert word in user.here("run", "-f", path, code=2)


def test_run_leaves_nothing(user):
    path = user.file("job.yaml", JOB.format(name="slow", command="sleep 7654321"))
    user("run", "-f", path, "--timeout", "1", code=1)
    assert not [
        p for p in psutil.process_iter(["cmdline"]) if "7654321" in (p.info["cmdline"] or "")
    ]
    assert not user.kubeconfig.exists()


# questions


def test_status_in_text_and_json(running):
    said = running.here("status")
    assert "1 of 1 ready" in said
    report = json.loads(running.here("status", "-o", "json"))
    assert report["nodes"] == {"total": 1, "ready": 1}
    assert report["devices"]["total"] == 1
    assert report["memoryBytes"] > 1e6
    assert "'xml'" in running.here("status", "-o", "xml", code=2)


WAITING = """
apiVersion: jobset.x-k8s.io/v1alpha2
kind: JobSet
metadata: {name: waits}
spec:
  replicatedJobs:
    - name: w
      template:
        spec:
          template:
            spec:
              nodeSelector: {disk: fast}
              containers: [{name: c, image: busybox}]
---
apiVersion: batch/v1
kind: Job
metadata: {name: queued, labels: {kueue.x-k8s.io/queue-name: nowhere}}
spec:
  template:
    spec:
      restartPolicy: Never
      containers: [{name: c, image: busybox}]
---
apiVersion: resource.k8s.io/v1
kind: ResourceClaim
metadata: {name: two}
spec:
  devices:
    requests:
      - {name: g, exactly: {deviceClassName: gpu.example.com, count: 2}}
---
apiVersion: v1
kind: Pod
metadata: {name: greedy}
spec:
  resourceClaims: [{name: g, resourceClaimName: two}]
  containers: [{name: c, image: busybox, resources: {claims: [{name: g}]}}]
"""


@pytest.fixture(scope="module")
def waiting(running):
    """Things that wait, and the name of the Workload of the queued job."""
    script = """
import asyncio, sys, yaml
from kubarium.client.http import HttpClient
from kubarium.cli.connection import ResourceFinder
from kubarium.api.kinds import WORKLOADS
async def main():
    async with HttpClient.from_kubeconfig(sys.argv[1]) as client:
        finder = ResourceFinder(client)
        for document in yaml.safe_load_all(sys.stdin):
            await client.create(await finder.of_document(document), document, "default")
        for _ in range(100):
            items = (await client.list(WORKLOADS, "default")).items
            if items:
                print(items[0]["metadata"]["name"])
                return
            await asyncio.sleep(0.1)
asyncio.run(main())
"""
    done = subprocess.run(
        [sys.executable, "-c", script, str(running.kubeconfig)],
        input=WAITING,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


REASONS = {
    "pod/greedy": "gpu",
    "po/greedy": "gpu",
    "jobset/waits": "node affinity/selector",
    "job/waits-w-0": "node affinity/selector",
    "job/queued": "nowhere",
    "resourceclaim/two": "two",
    "node/worker-0": "worker-0",
}


@pytest.mark.parametrize("target", REASONS)
def test_why(running, waiting, target):
    deadline = time.monotonic() + 15
    while REASONS[target] not in (said := running.here("why", target)):
        assert time.monotonic() < deadline, said
        time.sleep(0.2)
    document = json.loads(running.here("why", target, "-o", "json"))
    assert isinstance(document, dict)
    assert document


def test_why_of_a_workload(running, waiting):
    assert "nowhere" in running.here("why", f"workload/{waiting}")


def test_why_of_what_is_not_there(running):
    assert 'pods "nope" not found' in running.here("why", "pod/nope", code=1)
    assert "'thing'" in running.here("why", "thing/x", code=2)
    assert "kind/name" in running.here("why", "pod", code=2)
    assert "kind/name" in running.here("why", "pod/", code=2)
    running.here("why", "pod/a/b", code=1)
    running.here("why", "pod/greedy", "-n", "nowhere", code=1)
    assert "does not exist" in running.here("why", "pod/a", "--kubeconfig", "/nope", code=2)
    config = str(running.kubeconfig)
    said = running.here("why", "pod/a", "--kubeconfig", config, "--context", "nope", code=2)
    assert "nope" in said


def test_why_of_a_name_that_is_not_there_says_what_is_near(running, waiting):
    assert "similar names: greedy" in running.here("why", "pod/gredy", code=1)
    said = running.here("why", "pod/greedy", "-n", "nowhere", code=1)
    assert 'pods "greedy" not found; it is in namespace default' in said


def test_why_of_a_server_that_is_gone(user):
    user("up", "--detach")
    kept = user.file("kept", user.kubeconfig.read_text())
    user("down")
    said = user("why", "pod/a", "--kubeconfig", kept, code=1)
    assert "cannot be reached" in said


def test_devices_of_a_node(running):
    said = running.here("devices", "nope", "--driver", "gpu.example.com", "--count", "1", code=1)
    assert 'nodes "nope" not found' in said


# MCP


def test_devices_are_shown_with_what_they_measure(running):
    head, *rows = running.here("devices").splitlines()
    assert head.split()[:4] == ["NODE", "DEVICE", "MODEL", "STATE"]
    assert all("ok" in row and "W " in row for row in rows)
    as_json = json.loads(running.here("devices", "-o", "json"))
    assert len(as_json) == len(rows)
    assert as_json[0]["measures"]["power_w"] > 0
    node = as_json[0]["node"]
    said = running.here("devices", "nope", code=2)
    assert "no node 'nope'; there are " in said
    assert node in said
    assert f"did you mean {node}?" in running.here("devices", f"{node}x", code=2)
    assert "--driver is missing" in running.here("devices", node, "--count", "1", code=2)


def test_health_is_commanded(running):
    (device, *_) = json.loads(running.here("devices", "-o", "json"))
    about = ("devices", device["node"], "--driver", device["driver"])

    def state():
        return json.loads(running.here(*about, "-o", "json"))[0]["state"]

    for health, wanted in (("gpu-0=Unhealthy", "unhealthy:NoSchedule"), ("", "ok")):
        running.here(*about, "--health", health)
        end = time.monotonic() + 10
        while state() != wanted and time.monotonic() < end:
            time.sleep(0.05)
        assert state() == wanted


def test_health_of_devices_that_are_not_there_or_in_no_known_word_is_refused(running):
    (device, *_) = json.loads(running.here("devices", "-o", "json"))
    about = ("devices", device["node"], "--driver", device["driver"], "--health")
    assert "did you mean gpu-0?" in running.here(*about, "gpu-0=Unhealthy,gpu-o=xid-79", code=2)
    assert "'gpu-0=foo': must be DEVICE=" in running.here(*about, "gpu-0=foo", code=2)
    other = ("devices", device["node"], "--driver", "x.example.com", "--health", "a=Unhealthy")
    assert "driver x.example.com publishes no devices" in running.here(*other, code=2)
    assert json.loads(running.here("devices", "-o", "json"))[0]["state"] == "ok"


def test_mcp_answers_a_client_of_the_sdk(running, waiting):
    from mcp import ClientSession, StdioServerParameters
    from mcp.client.stdio import stdio_client

    parameters = StdioServerParameters(
        command=sys.executable,
        args=["-m", "kubarium.cli.main", "mcp"],
        env=running.environment,
    )

    async def ask():
        async with stdio_client(parameters) as streams, ClientSession(*streams) as session:
            greeted = await session.initialize()
            tools = {tool.name for tool in (await session.list_tools()).tools}
            why = next(name for name in tools if "why" in name)
            answer = await session.call_tool(why, {"kind": "pod", "name": "greedy"})
            wrong = await session.call_tool(why, {"kind": "pod", "name": "nope"})
            return greeted, tools, answer, wrong

    greeted, tools, answer, wrong = asyncio.run(ask())
    said = str(greeted)
    assert "kubarium" in said
    assert len(tools) >= 6
    assert "gpu" in str(answer)
    assert "not found" in str(wrong)
    assert "Traceback" not in str(wrong)


def test_mcp_without_a_cluster(user):
    assert "does not run" in user.here("mcp", code=2)


# what the README says


def test_the_examples_of_the_readme_run(user):
    queues = ROOT / "examples" / "queues"
    said = user(
        "run",
        "-f",
        str(queues / "queues.yaml"),
        "-f",
        str(queues / "jobs.yaml"),
        "--cluster",
        str(ROOT / "examples" / "cluster" / "gpus.yaml"),
    )
    assert "all succeeded" in said
