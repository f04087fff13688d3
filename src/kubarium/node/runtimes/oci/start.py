"""OCI runtimes found and tried, and the calls that start containers with them."""

from __future__ import annotations

import asyncio
import os
from dataclasses import replace
from pathlib import Path

from kubarium.base.clock import Clock
from kubarium.base.trees import remove_tree
from kubarium.node.runtimes.oci.config import runtime_config
from kubarium.node.runtimes.oci.handlers import (
    NAMESPACES,
    Handlers,
    Program,
    find_programs,
)
from kubarium.node.runtimes.process import linux
from kubarium.node.runtimes.process.engine import (
    ProcessEngine,
    ProcessSpec,
    RuntimeCall,
    StartError,
    User,
)
from kubarium.node.runtimes.process.rootfs import RootFs
from kubarium.node.runtimes.process.zygote import PLAIN, ROOT

_ENV = {"PATH": "/usr/bin:/bin:/usr/sbin:/sbin"}
_LOOK_S, _TRIAL_S = 0.005, 10.0


def runtime_call(program: Program, spec: ProcessSpec) -> RuntimeCall:
    """How ``program`` is to start ``spec``."""
    ours = linux.permitted_capabilities()  # nobody can give what he does not have
    config = runtime_config(spec, os.uname().machine, ours)
    return RuntimeCall(program.name, program.path, config)


async def find_handlers(engine: ProcessEngine, clock: Clock, root: Path) -> Handlers:
    """What this machine has, each tried with one command. Only what is installed takes time."""
    if engine.level == PLAIN:
        found = Handlers(namespaces=False)
        found.refusals[NAMESPACES] = "this machine allows no mount namespaces"
        return found
    found = await asyncio.to_thread(find_programs, engine.level == ROOT)
    tried = list(found.programs.values())
    problems = await asyncio.gather(*(_try(engine, clock, program, root) for program in tried))
    for program, problem in zip(tried, problems, strict=True):
        if problem:
            found.refuse(program.name, f"{program.path} fails here: {problem}")
    return found


async def _try(engine: ProcessEngine, clock: Clock, program: Program, root: Path) -> str:
    """Run one command of the machine's own: "" or why containers would fail."""
    name, sandbox = f"trial-{program.name}", f"trial-sandbox-{program.name}"
    place = root / name
    place.mkdir(exist_ok=True)
    user = User(0, 0, [], linux.DEFAULT_CAPABILITIES)
    files = RootFs(str(place), layers=["/"])
    spec = ProcessSpec(["true"], _ENV, "/", f"{root}/{name}.log", user, files)
    try:
        await engine.create_sandbox(sandbox, "trial", [])
        try:
            started = engine.start_container(
                name, sandbox, replace(spec, runtime=runtime_call(program, spec))
            )
            await asyncio.wait_for(started, _TRIAL_S)
            while engine.is_running(name):
                await clock.sleep(_LOOK_S)
        finally:
            await engine.remove_sandbox(sandbox)
    except StartError as error:
        return str(error)
    except TimeoutError:
        return f"no answer within {_TRIAL_S:g} s"
    finally:
        remove_tree(place)
        for suffix in (".log", ".exit"):
            (root / f"{name}{suffix}").unlink(missing_ok=True)
    return ""
