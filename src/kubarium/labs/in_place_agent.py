"""The agent of JobSet's restartStrategy InPlaceRestart: one in each pod, as a sidecar or around
the worker. Standard library only.

    python -m kubarium.labs.in_place_agent

Environment: JOBSET_NAME, POD_NAME; WORKER_COMMAND (then the agent runs it and ends as it does) or
STARTUP_PROBE_PORT and STARTUP_PROBE_PATH (then it answers that probe once the barrier is open);
IN_PLACE_RESTART_EXIT_CODE (1). The pod's service account must be allowed to patch pods and to get
and watch jobsets.

On start it writes into its pod which attempt this is: 0, or the JobSet's current one plus 1. It
opens its barrier when the JobSet says that all pods are in this attempt, and exits when the JobSet
says that the attempt is over; a restartPolicyRule of the container does the rest. The names of the
variables and the protocol are those of JobSet's own ``in-place-restart-agent``.
"""

from __future__ import annotations

import http.client
import json
import os
import shutil
import socket
import ssl
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import quote

ATTEMPT = "jobset.sigs.k8s.io/in-place-restart-attempt"
ACCOUNT = Path("/var/run/secrets/kubernetes.io/serviceaccount")
WATCH_S = 300
RETRY_S = 0.5
_JOBSETS = "/apis/jobset.x-k8s.io/v1alpha2/namespaces"


class Api:
    """The few requests that the agent makes, as the pod's service account."""

    def __init__(self, environment: Mapping[str, str], account: Path = ACCOUNT) -> None:
        # Where containers cannot have mounts of their own, this folder has what they mount.
        account = Path(f"{environment.get('KUBARIUM_ROOT', '')}{account}")
        self._host = environment["KUBERNETES_SERVICE_HOST"]
        self._port = int(environment["KUBERNETES_SERVICE_PORT"])
        self._token = account / "token"
        self._tls = ssl.create_default_context(cafile=str(account / "ca.crt"))
        self.namespace = (account / "namespace").read_text().strip()

    def _open(
        self, method: str, path: str, body: Any = None, timeout_s: float = 30.0
    ) -> http.client.HTTPResponse:
        connection = http.client.HTTPSConnection(
            self._host, self._port, context=self._tls, timeout=timeout_s
        )
        # Read anew: the token is exchanged before it runs out.
        headers = {"Authorization": f"Bearer {self._token.read_text().strip()}"}
        data = None
        if body is not None:
            data, headers["Content-Type"] = json.dumps(body), "application/merge-patch+json"
        connection.request(method, path, data, headers)
        response = connection.getresponse()
        if response.status >= 300:
            said = response.read().decode(errors="replace")
            raise ConnectionError(f"{method} {path}: HTTP {response.status}: {said}")
        return response

    def annotate_pod(self, name: str, attempt: int) -> None:
        """Write the attempt that the pod is in."""
        path = f"/api/v1/namespaces/{self.namespace}/pods/{quote(name)}"
        change = {"metadata": {"annotations": {ATTEMPT: str(attempt)}}}
        self._open("PATCH", path, change).read()

    def jobset(self, name: str) -> Iterator[dict[str, Any]]:
        """The JobSet as it is, then after each change; ends when the server ends the watch."""
        path = f"{_JOBSETS}/{self.namespace}/jobsets"
        found = json.loads(self._open("GET", f"{path}/{quote(name)}").read())
        yield found
        version = found["metadata"]["resourceVersion"]
        query = f"watch=1&resourceVersion={version}&timeoutSeconds={WATCH_S}"
        query += f"&fieldSelector=metadata.name%3D{quote(name)}"
        for line in self._open("GET", f"{path}?{query}", timeout_s=WATCH_S + 30):
            event = json.loads(line)
            if event["type"] not in ("ADDED", "MODIFIED"):
                return
            yield event["object"]


class Agent:
    """Decides by what the JobSet's status says; its barrier acts."""

    def __init__(self, api: Api, pod: str, barrier: Barrier, exit_code: int = 1) -> None:
        self._api, self._pod, self._barrier, self._exit_code = api, pod, barrier, exit_code
        self.attempt: int | None = None

    def look(self, jobset: Mapping[str, Any]) -> None:
        """Take in a state of the JobSet; does not return when the attempt is over."""
        policy = jobset["spec"].get("failurePolicy") or {}
        if policy.get("restartStrategy") != "InPlaceRestart":
            self._barrier.lift()
            return
        status = jobset.get("status") or {}
        current = status.get("currentInPlaceRestartAttempt")
        previous = status.get("previousInPlaceRestartAttempt")
        if self.attempt is None:
            attempt = 0 if current is None else current + 1
            self._api.annotate_pod(self._pod, attempt)
            self.attempt = attempt
            say(f"attempt {attempt}: waiting for the other pods")
        if previous is not None and self.attempt <= previous:
            say(f"attempt {self.attempt} is over: exit code {self._exit_code} restarts this pod")
            self._barrier.leave(self._exit_code)
        elif self.attempt == current:
            self._barrier.lift()


class Barrier:
    """What the worker waits behind."""

    def __init__(self) -> None:
        self._lifted = False

    def lift(self) -> None:
        """Let the worker begin; once."""
        if not self._lifted:
            self._lifted = True
            say("all pods are here: the barrier is open")
            self.open()

    def open(self) -> None:
        raise NotImplementedError

    def leave(self, code: int) -> None:
        """End the container at once."""
        sys.stdout.flush()
        os._exit(code)


class WorkerBarrier(Barrier):
    """Runs the worker itself, and ends as the worker ends."""

    def __init__(self, command: str) -> None:
        super().__init__()
        self._command = command

    def open(self) -> None:
        threading.Thread(target=self._run, daemon=True).start()

    def _run(self) -> None:
        shell = os.environ.get("SHELL") or shutil.which("bash") or "/bin/sh"
        code = subprocess.call([shell, "-c", self._command])
        self.leave(code if code >= 0 else 128 - code)


class ProbeBarrier(Barrier):
    """Answers the startup probe of a sidecar, which holds the main containers back until then."""

    def __init__(self, address: str, port: int, path: str) -> None:
        super().__init__()
        self._address, self._path = (address, port), path

    def open(self) -> None:
        server = ThreadingHTTPServer(self._address, _answering(self._path))
        threading.Thread(target=server.serve_forever, daemon=True).start()


def _answering(path: str) -> type[BaseHTTPRequestHandler]:
    class Answer(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200 if self.path == path else 404)
            self.end_headers()

        def log_message(self, format: str, *args: Any) -> None:
            """A probe a second is no news."""

    return Answer


def own_address(environment: Mapping[str, str]) -> str:
    """The pod's address: pods may share the machine's network, where 0.0.0.0 would clash."""
    if environment.get("POD_IP"):
        return environment["POD_IP"]
    try:
        return socket.gethostbyname(socket.gethostname())
    except OSError:
        return ""  # all addresses


def barrier_of(environment: Mapping[str, str]) -> Barrier:
    """Around the worker if there is a command, else beside it."""
    command = environment.get("WORKER_COMMAND")
    if command:
        return WorkerBarrier(command)
    port = int(environment.get("STARTUP_PROBE_PORT") or 8081)
    path = environment.get("STARTUP_PROBE_PATH") or "/barrier-is-down"
    return ProbeBarrier(own_address(environment), port, path)


def say(text: str) -> None:
    print(text, flush=True)


def main() -> None:
    environment = os.environ
    missing = [name for name in ("JOBSET_NAME", "POD_NAME") if not environment.get(name)]
    if missing:
        sys.exit(f"{' and '.join(missing)} must be set: take them from the pod by fieldRef")
    api = Api(environment)
    code = int(environment.get("IN_PLACE_RESTART_EXIT_CODE") or 1)
    agent = Agent(api, environment["POD_NAME"], barrier_of(environment), code)
    while True:
        try:
            for jobset in api.jobset(environment["JOBSET_NAME"]):
                agent.look(jobset)
        except (OSError, http.client.HTTPException, ValueError) as error:
            say(f"the API server does not answer as it should, trying again: {error}")
            time.sleep(RETRY_S)


if __name__ == "__main__":
    main()
