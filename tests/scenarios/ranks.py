"""Ranks that train as bare processes of this machine: what they end with is what a gang that was
hit must end with, to the bit."""

import os
import socket
import subprocess
import sys


def run_ranks(command: list[str], ranks: int, timeout_s: float) -> str:
    """What rank 0 of a Python program says when nothing happens to it."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port = listener.getsockname()[1]
    processes = [
        subprocess.Popen(
            [sys.executable, *command],
            env={  # as bare as a pod's: variables of the shell may choose other kernels
                "PATH": os.environ["PATH"],
                "RANK": str(rank),
                "WORLD_SIZE": str(ranks),
                "MASTER_ADDR": "127.0.0.1",
                "MASTER_PORT": str(port),
                "OMP_NUM_THREADS": "1",
            },
            stdout=subprocess.PIPE,
            text=True,
        )
        for rank in range(ranks)
    ]
    try:
        outputs = [process.communicate(timeout=timeout_s)[0] for process in processes]
    finally:
        for process in processes:
            process.kill()
    return outputs[0]
