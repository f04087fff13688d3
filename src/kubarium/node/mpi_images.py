"""Images whose ranks are started by Open MPI over SSH, as this machine stands in for them.

What such an image has beyond programs are accounts, and settings under which an SSH server and its
clients run without root and without anybody to confirm a host's key. Source: the base image of
kubeflow/mpi-operator (``build/base``), on which Trainer's own images are built.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from kubarium.node.config import ImageConfig

USER, UID, HOME = "mpiuser", 1000, "/home/mpiuser"
PORT = 2222
# Program -> the Debian package that has it.
PROGRAMS = (
    ("mpirun", "openmpi-bin"),
    ("ssh", "openssh-client"),
    ("sshd", "openssh-server"),
)
# Where sshd, run by root, locks its unprivileged half in.
_EMPTY = "/run/sshd"
# Frameworks that have an image of Trainer's, and how their programs run without MPI.
_FRAMEWORKS = {
    "deepspeed": "the runtime torch-distributed, whose ranks deepspeed.init_distributed() joins",
    "mlx": "a plain runtime and MLX's ring, which finds its peers by MLX_HOSTFILE and MLX_RANK",
}
# Debian keeps the name that MLX looks for in a package for compilers.
_VARIABLES = {"mlx": {"MLX_MPI_LIBNAME": "libmpi.so.40"}}


def mpi_images(path: tuple[str, ...], search: str) -> list[ImageConfig]:
    """``path`` is put in front of PATH, ``search``, also for what a launcher starts elsewhere."""
    whole = ":".join((*path, search))
    plain = ImageConfig(
        "",
        cmd=("bash",),
        env={"HOME": HOME},
        path=path,
        working_dir=HOME,
        programs=PROGRAMS,
        files=_files({"PATH": whole}),
        folders=(HOME, _EMPTY),
    )
    found = [replace(plain, name=f"mpioperator/{name}") for name in ("openmpi", "base")]
    for name, instead in _FRAMEWORKS.items():
        own = _VARIABLES.get(name, {})
        image = replace(
            plain,
            name=f"kubeflow/trainer/{name}-runtime",
            env={**plain.env, **own},
            modules=(name,),
            files=_files({"PATH": whole, **own}),
            instead=instead,
        )
        found.append(image)
    return found


def _files(environment: Mapping[str, str]) -> Mapping[str, str]:
    """``environment``: what programs find that the server starts; the container's own is lost."""
    # Not bash: for sshd it reads the .bashrc of its user, which for root is the machine's.
    shell = "/bin/sh"
    nobody = "/usr/sbin/nologin"
    server = "".join(f"{line}\n" for line in _server(environment))
    return {
        "/etc/passwd": (
            f"root:x:0:0:root:/root:{shell}\n"
            f"sshd:x:101:65534::{_EMPTY}:{nobody}\n"
            f"{USER}:x:{UID}:{UID}::{HOME}:{shell}\n"
            f"nobody:x:65534:65534:nobody:/nonexistent:{nobody}\n"
        ),
        "/etc/group": f"root:x:0:\n{USER}:x:{UID}:\nnogroup:x:65534:\n",
        # Host keys are made with each job: there is nothing to compare them with.
        "/etc/ssh/ssh_config": (
            f"Host *\n    Port {PORT}\n    StrictHostKeyChecking no\n"
            "    UserKnownHostsFile /dev/null\n    LogLevel ERROR\n    BatchMode yes\n"
        ),
        "/etc/ssh/sshd_config": f"HostKey /root/.ssh/id_rsa\n{server}",
        f"{HOME}/.sshd_config": f"HostKey {HOME}/.ssh/id_rsa\nPidFile {HOME}/sshd.pid\n{server}",
    }


def _server(environment: Mapping[str, str]) -> list[str]:
    """One address, since pods may share a network. The keys' folder is a volume, which is not its
    user's alone: the server must not mind."""
    given = " ".join(f"{name}={value}" for name, value in environment.items())
    return [f"Port {PORT}", "ListenAddress $(POD_IP)", "StrictModes no", f"SetEnv {given}"]
