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


@pytest.mark.timeout(150)
def test_a_user_without_privileges_gets_networks_policies_and_limits():
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
    try:
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
        script = [*DROP, "bash", "-c", STORY]
        command = ["unshare", "-m", "bash", "-c", SHOW, "bash", *script]
        done = subprocess.run(
            command, env=environment, capture_output=True, text=True, timeout=140, check=False
        )
        assert done.returncode == 0, done.stdout + done.stderr
        said = done.stdout.splitlines()
        assert "before: 200" in said
        assert not any(line.startswith("after: 200") for line in said)
        assert "hog: OOMKilled" in said
        isolation = json.dumps(json.loads((home / "status.json").read_text()))
        assert "user-namespace" in isolation
        assert "each pod has its own network" in isolation
        left = subprocess.run(["pgrep", "-u", str(USER), "-a"], capture_output=True, check=False)
        assert b"kubarium" not in left.stdout
    finally:
        shutil.rmtree(place, ignore_errors=True)
