"""The kubarium command: every verb in one table, the work in the modules beside this one."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path
from typing import Annotated, Any

import typer

from kubarium import __version__
from kubarium.base.errors import ConfigError
from kubarium.cli.console import is_program, out, speaks_plainly

app = typer.Typer(
    name="kubarium",
    help="A Kubernetes platform for AI workloads on one machine: a cluster under glass.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _load(module: str) -> Any:
    """Import what one verb needs when it is used: `kubarium down` needs no API server, and only
    `kubarium mcp` needs the MCP library. The one place that imports late."""
    return import_module(f"kubarium.{module}")


Name = Annotated[str, typer.Option("--name", help="Which cluster, if you run several.")]
Kubeconfig = Annotated[
    Path | None, typer.Option("--kubeconfig", help="Ask this cluster instead of our own.")
]
Context = Annotated[str, typer.Option("--context", help="Context in the kubeconfig.")]
Namespace = Annotated[str, typer.Option("-n", "--namespace", help="Namespace.")]
Output = Annotated[str, typer.Option("-o", "--output", help="text or json.")]
ClusterFileOption = Annotated[
    Path | None, typer.Option("-f", "--file", help="Cluster file (ours, or kind's).")
]
DEFAULT_NAME = "kubarium"


@app.command()
@speaks_plainly
def up(
    name: Name = DEFAULT_NAME,
    file: ClusterFileOption = None,
    nodes: Annotated[int | None, typer.Option(help="Nodes, without a file (default 2).")] = None,
    simulated: Annotated[bool, typer.Option(help="Simulate pods; start no processes.")] = False,
    detach: Annotated[bool, typer.Option("-d", "--detach", help="Return when ready.")] = False,
    port: Annotated[int, typer.Option(help="API port on loopback; 0 picks one.")] = 0,
    in_memory: Annotated[bool, typer.Option(help="Keep nothing on disk.")] = False,
    kubeconfig: Annotated[
        Path | None, typer.Option(help="File to put our context into (default: kubectl's own).")
    ] = None,
    no_kubeconfig: Annotated[bool, typer.Option(help="Leave kubectl's file alone.")] = False,
) -> None:
    """Bring up a cluster: API server, controllers, scheduler, queues and nodes."""
    target = None if no_kubeconfig else _load("cli.lifecycle").kubeconfig_target(kubeconfig)
    _load("cli.lifecycle").up(name, file, nodes, simulated, detach, port, in_memory, target)


@app.command()
@speaks_plainly
def down(
    name: Name = DEFAULT_NAME,
    now: Annotated[
        bool, typer.Option("--now", help="End pods at once, whatever shutdownGracePeriod says.")
    ] = False,
) -> None:
    """Stop a cluster and every process of its pods. Its objects stay for the next `up`.

    Nodes that have a shutdownGracePeriod shut down gracefully first.
    """
    _load("cli.ending").down(name, now)


@app.command()
@speaks_plainly
def reset(name: Name = DEFAULT_NAME) -> None:
    """Stop a cluster and forget everything it held."""
    _load("cli.ending").reset(name)


@app.command()
@speaks_plainly
def chaos(
    action: Annotated[
        str,
        typer.Argument(
            help="kill, stop, slow, out-of-memory, corrupt-file, partition, loss, delay; "
            "lose-node, disconnect-node, partition-node, device-unhealthy."
        ),
    ],
    selector: Annotated[str, typer.Option("-l", "--selector", help="Labels, as app=train.")] = "",
    rank: Annotated[int | None, typer.Option(help="Only the pod of this completion index.")] = None,
    container: Annotated[str, typer.Option("-c", "--container", help="Container.")] = "",
    duration: Annotated[float, typer.Option(help="Seconds that it lasts; 0: until Ctrl-C.")] = 0.0,
    amount: Annotated[
        float | None,
        typer.Option(
            help="slow: CPUs left; out-of-memory: MiB beyond the limit; loss: share of packets; "
            "delay: milliseconds."
        ),
    ] = None,
    peers: Annotated[
        str, typer.Option(help="partition, loss: labels of the other side; *: all pods.")
    ] = "",
    mode: Annotated[str, typer.Option(help="One of those that match, or All at once.")] = "One",
    path: Annotated[str, typer.Option(help="corrupt-file: a folder in the container.")] = "",
    device: Annotated[str, typer.Option(help="device-unhealthy: driver/device.")] = "",
    after: Annotated[float, typer.Option(help="Seconds until the first.")] = 0.0,
    every: Annotated[float, typer.Option(help="Seconds between two.")] = 0.0,
    mtbf: Annotated[float, typer.Option(help="Mean seconds between two, drawn by the seed.")] = 0.0,
    times: Annotated[int | None, typer.Option(help="How many; else one, or on and on.")] = None,
    seed: Annotated[int, typer.Option(help="Same seed, same victims and times.")] = 0,
    namespace: Namespace = "default",
    name: Name = DEFAULT_NAME,
    kubeconfig: Kubeconfig = None,
    context: Context = "",
) -> None:
    """Break something on purpose: a Fault object, followed until it is over (Ctrl-C ends it)."""
    schedule = {
        "afterSeconds": after,
        "everySeconds": every,
        "meanSecondsBetween": mtbf,
        "times": times,
        "seed": seed,
    }
    spec = {
        "rank": rank,
        "container": container,
        "durationSeconds": duration,
        "amount": amount,
        "path": path,
        "device": device,
        "peers": peers,
        "mode": "" if mode == "One" else mode.capitalize(),
        "schedule": schedule,
    }
    _load("cli.chaos").inject(action, selector, spec, namespace, name, kubeconfig, context)


@app.command()
@speaks_plainly
def goodput(
    target: Annotated[
        str, typer.Argument(help="jobset, trainjob or job/NAME; without one, all runs by team.")
    ] = "",
    by: Annotated[
        str, typer.Option(help="What a team is: namespace, queue or label:KEY.")
    ] = "namespace",
    all_namespaces: Annotated[
        bool, typer.Option("-A", "--all-namespaces", help="Runs of all namespaces.")
    ] = False,
    namespace: Namespace = "default",
    name: Name = DEFAULT_NAME,
    kubeconfig: Kubeconfig = None,
    context: Context = "",
    output: Output = "text",
    html: Annotated[
        Path | None, typer.Option(help="Write a timeline of all ranks (or the teams) here.")
    ] = None,
    trace: Annotated[
        Path | None, typer.Option(help="Write a trace for chrome://tracing or Perfetto here.")
    ] = None,
) -> None:
    """Where a training run's time went: kept, lost and why, rank by rank; how often to save.
    Without a run: where the time of all runs went, by team."""
    if not target:
        if trace is not None:
            raise ConfigError("--trace: is of one run; name it, such as jobset/train")
        scope = "" if all_namespaces or by == "namespace" else namespace
        _load("cli.team_goodput").show(by, scope, name, kubeconfig, context, output, html)
        return
    _load("cli.goodput").show(target, namespace, name, kubeconfig, context, output, html, trace)


@app.command()
@speaks_plainly
def status(name: Name = DEFAULT_NAME, output: Output = "text") -> None:
    """What runs, how isolated pods are on this machine, and how much memory it takes."""
    _load("cli.queries").status(name, output)


@app.command()
@speaks_plainly
def why(
    target: Annotated[str, typer.Argument(help="kind/name, such as pod/train-0 or job/train.")],
    namespace: Namespace = "default",
    name: Name = DEFAULT_NAME,
    kubeconfig: Kubeconfig = None,
    context: Context = "",
    output: Output = "text",
    node: Annotated[
        str, typer.Option("--node", help="Only this node, with every rule that it fails.")
    ] = "",
) -> None:
    """Why something does not run: what is missing, and the smallest change that would help."""
    _load("cli.queries").why(target, namespace, name, kubeconfig, context, output, node)


@app.command()
@speaks_plainly
def run(
    files: Annotated[list[Path], typer.Option("-f", "--files", help="Manifests to apply.")],
    cluster_file: Annotated[
        Path | None, typer.Option("--cluster", help="Cluster file to bring up.")
    ] = None,
    nodes: Annotated[int | None, typer.Option(help="Nodes, without a file (default 2).")] = None,
    simulated: Annotated[bool, typer.Option(help="Simulate pods; start no processes.")] = False,
    timeout_s: Annotated[float, typer.Option("--timeout", help="Seconds to wait.")] = 300,
) -> None:
    """Bring up a throw-away cluster, apply, wait, show a timeline, exit with the outcome."""
    _load("cli.throwaway").run(files, cluster_file, nodes, simulated, timeout_s)


@app.command()
@speaks_plainly
def devices(
    node: Annotated[str, typer.Argument(help="Only this node's devices.")] = "",
    driver: Annotated[str, typer.Option(help="DRA driver, such as gpu.example.com.")] = "",
    count: Annotated[
        int | None, typer.Option(help="Give the node this many simulated devices.")
    ] = None,
    health: Annotated[
        str | None,
        typer.Option(help="Say how devices are: gpu-0=xid-79,gpu-3=Unhealthy:NoExecute; '' heals."),
    ] = None,
    name: Name = DEFAULT_NAME,
    kubeconfig: Kubeconfig = None,
    context: Context = "",
    output: Output = "text",
) -> None:
    """Show devices, who holds them and what they measure; or change a node's simulated ones."""
    if count is None and health is None:
        _load("cli.devices").show(node, driver, name, kubeconfig, context, output)
    else:
        _load("cli.devices").command(node, driver, count, health, name, kubeconfig, context)


node_app = typer.Typer(help="Switch nodes off and on.", no_args_is_help=True)
app.add_typer(node_app, name="node")


@node_app.command()
@speaks_plainly
def shutdown(
    node: Annotated[str, typer.Argument(help="The node's name.")],
    grace: Annotated[
        str, typer.Option(help="How long pods get at most, as 30s; else as configured.")
    ] = "",
    wait: Annotated[bool, typer.Option(help="Wait until its pods have ended.")] = True,
    name: Name = DEFAULT_NAME,
    kubeconfig: Kubeconfig = None,
    context: Context = "",
) -> None:
    """Shut a node down: not ready, its pods end by priority, then it is silent."""
    _load("cli.nodes").shutdown(node, grace, wait, name, kubeconfig, context)


@node_app.command()
@speaks_plainly
def start(
    node: Annotated[str, typer.Argument(help="The node's name.")],
    name: Name = DEFAULT_NAME,
    kubeconfig: Kubeconfig = None,
    context: Context = "",
) -> None:
    """Switch a node on again that was shut down."""
    _load("cli.nodes").start(node, name, kubeconfig, context)


@app.command()
@speaks_plainly
def mcp(name: Name = DEFAULT_NAME, kubeconfig: Kubeconfig = None, context: Context = "") -> None:
    """Serve the cluster to an MCP client over stdin and stdout (read-only)."""
    server = _load("dataplane.mcp_server")
    _load("cli.queries").serve(server.serve_stdio, name, kubeconfig, context)


@app.command()
@speaks_plainly
def demo(
    keep: Annotated[bool, typer.Option(help="Leave the demo's cluster running.")] = False,
) -> None:
    """A deadlock, a gang and a recovery, with real processes, in under a minute."""
    _load("cli.demo").tell(keep)


images = typer.Typer(help="The container images of a cluster's nodes.", no_args_is_help=True)
app.add_typer(images, name="image")


@images.command("load")
@speaks_plainly
def image_load(
    files: Annotated[
        list[Path], typer.Argument(help="OCI layouts (folder or tar), or tars of docker save.")
    ],
    tag: Annotated[list[str] | None, typer.Option("--tag", help="Call the image this.")] = None,
    name: Name = DEFAULT_NAME,
) -> None:
    """Take images into the nodes' store, as `kind load` does; no registry is asked."""
    _load("cli.images").load(files, tag or [], name)


@images.command("pull")
@speaks_plainly
def image_pull(
    references: Annotated[list[str], typer.Argument(help="Names, as docker pull takes them.")],
    name: Name = DEFAULT_NAME,
) -> None:
    """Fetch images from their registries, through skopeo."""
    _load("cli.images").pull(references, name)


@images.command("ls")
@speaks_plainly
def image_ls(name: Name = DEFAULT_NAME, output: Output = "text") -> None:
    """Images that are there, their size and where they came from."""
    _load("cli.images").show(name, output)


@images.command("rm")
@speaks_plainly
def image_rm(
    names: Annotated[list[str], typer.Argument(help="Names or image ids.")],
    name: Name = DEFAULT_NAME,
) -> None:
    """Remove images; what containers still run from goes when they end."""
    _load("cli.images").remove(names, name)


@app.command()
def version() -> None:
    """Versions of Kubarium and of the Kubernetes API that it serves."""
    out.print(f"kubarium {__version__}, Kubernetes API v1.37")


def main() -> None:
    """Entry point of the console script."""
    is_program()
    app()


if __name__ == "__main__":
    main()
