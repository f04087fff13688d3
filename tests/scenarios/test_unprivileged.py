"""The whole of it as a user without any privilege: networks of user namespaces, measured limits.

Where the tests run as root, a user is made of setpriv; where they do not, all others are this test.
"""

from __future__ import annotations

import json
import os
import shutil
import stat
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
import yaml

from kubarium.node.images import lacking
from kubarium.node.mpi_images import PROGRAMS
from tests.conftest import ROOT

USER = 65534
DROP = [
    "setpriv",
    f"--reuid={USER}",
    f"--regid={USER}",
    "--clear-groups",
    "--bounding-set=-all",
    "--inh-caps=-all",
]
# In a mount namespace of its own: shows Python to the user where it is in a home closed to others.
SHOW = """
set -e
if [ -n "$HIDDEN" ]; then
  mkdir -p "$PLACE/python"
  mount --bind "$PREFIX" "$PLACE/python"
  mount -t tmpfs -o mode=755 tmpfs "$HIDDEN"
  mkdir -p "$PREFIX"
  mount --bind "$PLACE/python" "$PREFIX"
fi
exec "$@"
"""
STORY = """
set -e
cd "$HOME"
k() { "$PYTHON" -m kubarium.cli.main "$@"; }
k up -d >&2
trap 'k down >&2' EXIT
k status -o json > status.json
kubectl run web --image=busybox --command -- python3 -m http.server 8080
kubectl expose pod web --port 80 --target-port 8080
kubectl run ask --image=busybox --command -- sleep 1000
kubectl run hog --image=busybox --restart=Never --overrides='{"spec": {"containers": [{
  "name": "hog", "image": "busybox",
  "command": ["python3", "-c", "b = bytearray(300 << 20); input()"],
  "stdin": true, "resources": {"limits": {"memory": "60Mi"}}}]}}'
kubectl wait --for=condition=Ready pod/web pod/ask --timeout=40s
ask() { kubectl exec ask -- python3 -c "import urllib.request as r
print(r.urlopen('http://web/', timeout=3).status)" 2>&1 || true; }
for n in 1 2 3 4 5; do ask | grep -q 200 && break; sleep 0.5; done
echo "before: $(ask | tail -1)"
printf '%s' '{"apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy", "metadata": {"name":
  "deny"}, "spec": {"podSelector": {}, "policyTypes": ["Ingress"]}}' | kubectl apply -f -
for n in 1 2 3 4 5; do ask | grep -q 200 || break; sleep 0.5; done
echo "after: $(ask | tail -1)"
kubectl wait --for=jsonpath='{.status.phase}'=Failed pod/hog --timeout=30s
ended=.status.containerStatuses[0].state.terminated
echo "hog: $(kubectl get pod hog -o jsonpath="{$ended.reason}")"
"""


def hidden(path: Path) -> str:
    """The first directory on the way to ``path`` that others may not pass."""
    for folder in reversed(path.parents):
        if not stat.S_IMODE(folder.stat().st_mode) & 0o001:
            return str(folder)
    return ""


@pytest.fixture
def as_user():
    """Runs a bash script as a user without privileges, in an empty home; (its output, the home)."""
    if os.geteuid() != 0:
        pytest.skip("the tests run as such a user already: all of them are this one")
    for program in ("setpriv", "unshare", "kubectl"):
        if shutil.which(program) is None:
            pytest.skip(f"needs {program}")
    if subprocess.run([*DROP, "unshare", "-U", "-r", "-n", "true"], check=False).returncode:
        pytest.skip("this machine gives users no namespaces")
    if hidden(Path(__file__)) or hidden(Path(sys.executable)):
        pytest.skip("this checkout is in a directory that others may not pass")
    place = Path(tempfile.mkdtemp(prefix="kubarium-user-"))
    home = place / "home"
    home.mkdir()
    os.chown(home, USER, USER)
    place.chmod(0o755)
    environment = {
        "PATH": os.environ["PATH"],
        "HOME": str(home),
        "KUBARIUM_HOME": str(home / "kubarium"),
        "KUBECONFIG": str(home / "config"),
        "PYTHON": sys.executable,
        "PLACE": str(place),
        "HIDDEN": hidden(Path(os.path.realpath(sys.executable))),
        "PREFIX": sys.base_prefix,
    }

    def run(story: str, **more: str) -> tuple[str, Path]:
        script = [*DROP, "bash", "-c", story]
        command = ["unshare", "-m", "bash", "-c", SHOW, "bash", *script]
        done = subprocess.run(
            command,
            env=environment | more,
            capture_output=True,
            text=True,
            timeout=140,
            check=False,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        left = subprocess.run(["pgrep", "-u", str(USER), "-a"], capture_output=True, check=False)
        assert b"kubarium" not in left.stdout
        return done.stdout, home

    yield run
    shutil.rmtree(place, ignore_errors=True)


@pytest.mark.timeout(150)
def test_a_user_without_privileges_gets_networks_policies_and_limits(as_user):
    output, home = as_user(STORY)
    said = output.splitlines()
    assert "before: 200" in said
    assert not any(line.startswith("after: 200") for line in said)
    assert "hog: OOMKilled" in said
    isolation = json.dumps(json.loads((home / "status.json").read_text()))
    assert "user-namespace" in isolation
    assert "each pod has its own network" in isolation


MPI_STORY = """
set -e
cd "$HOME"
k() { "$PYTHON" -m kubarium.cli.main "$@"; }
k up -d >&2
trap 'k down >&2' EXIT
kubectl apply -f "$MANIFEST"
kubectl wait --for=condition=Complete trainjob/hello --timeout=90s || {
  kubectl get events >&2; kubectl logs -l jobset.sigs.k8s.io/jobset-name=hello >&2; exit 1; }
kubectl logs -l jobset.sigs.k8s.io/replicatedjob-name=launcher
"""


@pytest.mark.timeout(150)
def test_a_user_without_privileges_gets_ranks_of_open_mpi(as_user):
    if lacking(PROGRAMS):
        pytest.skip(f"this machine lacks {lacking(PROGRAMS)}: programs and their packages")
    runtime, job = yaml.safe_load_all((ROOT / "examples/training/mpi.yaml").read_text())
    job["metadata"]["name"] = "hello"
    script = "echo rank $OMPI_COMM_WORLD_RANK as $(id -un) on $(hostname)"
    job["spec"]["trainer"]["command"] = ["mpirun", "sh", "-c", script]
    with tempfile.NamedTemporaryFile("w", suffix=".yaml") as manifest:
        yaml.safe_dump_all([runtime, job], manifest)
        manifest.flush()
        os.chmod(manifest.name, 0o644)
        output, _ = as_user(MPI_STORY, MANIFEST=manifest.name)
    assert {line for line in output.splitlines() if line.startswith("rank ")} == {
        "rank 0 as mpiuser on hello-launcher-0-0",
        "rank 1 as mpiuser on hello-node-0-0",
        "rank 2 as mpiuser on hello-node-0-1",
    }
