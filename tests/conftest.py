"""What all tests share: the folder of upstream data, and a cluster as a user would start one."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from contextlib import suppress
from importlib.util import find_spec
from pathlib import Path

import pytest
from hypothesis import settings

from kubarium.server.local import LocalClient

# The same examples on every run; HYPOTHESIS_PROFILE=explore looks for new ones.
settings.register_profile("repeatable", derandomize=True, deadline=None)
settings.register_profile("explore", deadline=None, print_blob=True)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "repeatable"))

# Shells start what runs in the background with Ctrl-C ignored, and so would be what tests start.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

# What components say of the documents that they write is not taken on trust here.
LocalClient.checks_fresh = True

ROOT = Path(__file__).parent.parent


# Marks of tests that need a package which make test does not install.
EXTRAS = ("torch", "jax")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for name in EXTRAS:
        if find_spec(name) is None:
            skip = pytest.mark.skip(reason=f"{name} is not installed (make test-torch)")
            for item in items:
                if item.get_closest_marker(name):
                    item.add_marker(skip)


def shared_folder() -> Path:
    return Path(os.environ.get("KUBARIUM_SHARED", ROOT.parent / "shared"))


@pytest.fixture(scope="session")
def shared() -> Path:
    """The upstream manifests and tables, which are not part of this repository."""
    folder = shared_folder()
    if not folder.is_dir():
        pytest.skip("the upstream data folder is absent; name it with KUBARIUM_SHARED")
    return folder


@pytest.fixture(scope="session")
def lab_manifests(shared) -> Path:
    folder = shared / "manifests" / "cloud-native-ai-lab" / "labs"
    if not folder.is_dir():
        pytest.skip("the lab's manifests are absent from the upstream data folder")
    return folder


def kubectls() -> list[str]:
    """kubectl and its older siblings kubectl.1.27 … beside the file that it links to."""
    found = shutil.which("kubectl")
    if not found:
        return []
    beside = sorted(Path(found).resolve().parent.glob("kubectl.1.*"))
    return [found, *(str(path) for path in beside)]


def _without_registries(folder: Path) -> Path:
    """A folder for the front of PATH: no test asks a registry of the world's, skopeo or not."""
    folder.mkdir(exist_ok=True)
    stand_in = folder / "skopeo"
    stand_in.write_text("#!/bin/sh\necho 'tests ask no registries' >&2\nexit 1\n")
    stand_in.chmod(0o755)
    return folder


class RunningCluster:
    """A cluster that ``kubarium up --detach`` started under a home of its own."""

    def __init__(self, home: Path, *arguments: str) -> None:
        self.home = home
        self.kubeconfig = home / "kubectl-config"
        self.environment = os.environ | {
            "PATH": f"{_without_registries(home / 'no-registries')}:{os.environ['PATH']}",
            "KUBARIUM_HOME": str(home),
            "KUBECONFIG": str(self.kubeconfig),
            "HOME": str(home),
        }
        self.kubarium("up", "--detach", *arguments)

    def kubarium(self, *arguments: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "kubarium.cli.main", *arguments]
        return self._run(command, check)

    def kubectl(self, *arguments: str, check: bool = True, binary: str = "") -> str:
        done = self._run([binary or kubectls()[0], *arguments], check)
        return done.stdout if check else done.stdout + done.stderr

    def get(self, *arguments: str) -> dict:
        return json.loads(self.kubectl("get", *arguments, "-o", "json"))

    def apply(self, document: dict) -> str:
        path = self.home / "document.json"
        path.write_text(json.dumps(document))
        return self.kubectl("apply", "-f", str(path))

    def has(self, condition: str, kind: str, name: str) -> bool:
        """Whether a condition of an object is True."""
        conditions = self.get(kind, name).get("status", {}).get("conditions", ())
        return any(c["type"] == condition and c["status"] == "True" for c in conditions)

    def events(self, reason: str) -> list[str]:
        """The messages of the events with this reason."""
        return [e["message"] for e in self.get("events")["items"] if e["reason"] == reason]

    def _run(self, command: list[str], check: bool) -> subprocess.CompletedProcess[str]:
        done = subprocess.run(
            command, env=self.environment, capture_output=True, text=True, timeout=90
        )
        if check and done.returncode:
            log = "\n".join(p.read_text()[-4000:] for p in self.home.rglob("server.log"))
            raise AssertionError(f"{command}: {done.stdout}{done.stderr}\n{log}")
        return done

    def wait_until(self, question, timeout_s: float = 60, what: str = ""):
        """Ask until the answer is true; the answer."""
        deadline = time.monotonic() + timeout_s
        while True:
            answer = question()
            if answer:
                return answer
            if time.monotonic() > deadline:
                state = self.kubectl("get", "pods,jobs,events", "-A", check=False)
                raise AssertionError(f"not within {timeout_s} s: {what or question}\n{state}")
            time.sleep(0.2)

    def account(self) -> str:
        """What a person would ask for who finds this cluster after a test that failed."""
        asked = [self.kubectl("get", "nodes,pods,jobs,events", "-A", check=False)]
        # The server's, and those of all containers; pods come and go while one looks.
        for places in ("clusters/*/server.log", "clusters/*/nodes/pods/*/logs/*/*.log"):
            with suppress(FileNotFoundError):
                for log in sorted(self.home.glob(places)):
                    said = log.read_text(errors="replace")[-4000:]
                    asked.append(f"{log.relative_to(self.home)}:\n{said}")
        return "\n".join(asked)

    def stop(self) -> None:
        self.kubarium("reset", check=False)


FAILED = pytest.StashKey[bool]()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item):
    report = yield
    item.stash[FAILED] = item.stash.get(FAILED, False) or report.failed
    return report


@pytest.fixture
def start_cluster(tmp_path, request):
    """Start clusters that are gone after the test, whatever happens."""
    running: list[RunningCluster] = []

    def start(*arguments: str) -> RunningCluster:
        home = tmp_path / f"home-{len(running)}"
        home.mkdir()
        running.append(RunningCluster(home, *arguments))
        return running[-1]

    yield start
    for cluster in running:
        try:
            if request.node.stash.get(FAILED, False):
                print(cluster.account())
        finally:
            cluster.stop()
