"""`kubarium goodput`: the accounts of a training run, and its timeline as a page or a trace."""

from __future__ import annotations

import sys
from pathlib import Path

import orjson
from rich.table import Table

from kubarium.api.kinds import JOB_SETS, JOBS, RANK_HISTORIES
from kubarium.api.resource import Document
from kubarium.base.errors import ConfigError
from kubarium.cli.connection import asking
from kubarium.cli.console import out
from kubarium.cli.timeline import chrome_trace, page
from kubarium.client.gather import gather
from kubarium.client.http import HttpClient
from kubarium.cluster.clock import RealClock
from kubarium.engine.training.goodput import ACCOUNTS, PRODUCTIVE
from kubarium.view.goodput import RunReport, run_report

# A TrainJob's JobSet has its name.
_KINDS = {
    "jobset": JOB_SETS,
    "jobsets": JOB_SETS,
    "trainjob": JOB_SETS,
    "trainjobs": JOB_SETS,
    "job": JOBS,
    "jobs": JOBS,
}
JOBSET_NAME = "jobset.sigs.k8s.io/jobset-name"
JOB_NAME = "batch.kubernetes.io/job-name"
BAR = 32
# A rank this much slower than the median is worth a line.
SLOW = 1.15


def show(
    target: str,
    namespace: str,
    name: str,
    kubeconfig: Path | None,
    context: str,
    output: str,
    html: Path | None,
    trace: Path | None,
) -> None:
    """Print the report; write the files asked for."""
    if output not in ("text", "json"):
        raise ConfigError(f"--output {output!r}: write text or json")
    report = asking(name, kubeconfig, context, lambda client: _report(client, target, namespace))
    if html is not None:
        _write(html, page(report))
    if trace is not None:
        _write(trace, orjson.dumps(chrome_trace(report)).decode())
    if output == "json":
        text = orjson.dumps(report.to_json(), option=orjson.OPT_INDENT_2).decode()
        sys.stdout.write(text + "\n")
    else:
        _print(report)


def _write(path: Path, text: str) -> None:
    try:
        path.write_text(text, encoding="utf-8")
    except OSError as error:
        raise ConfigError(f"{path}: cannot be written: {error.strerror}") from error
    sys.stderr.write(f"wrote {path}\n")


async def _report(client: HttpClient, target: str, namespace: str) -> RunReport:
    kind, _, wanted = target.partition("/")
    resource = _KINDS.get(kind.lower())
    if resource is None or not wanted:
        raise ConfigError(
            f"{target!r}: write jobset/NAME, trainjob/NAME or job/NAME, such as jobset/train"
        )
    owner = await client.get(resource, wanted, namespace)
    owner = {"kind": resource.kind, **owner}
    lists = await gather(client, (RANK_HISTORIES, JOBS), namespace)
    label = JOBSET_NAME if resource == JOB_SETS else JOB_NAME
    jobs = [job for job in lists[JOBS] if _labels(job).get(JOBSET_NAME) == wanted]
    histories = [h for h in lists[RANK_HISTORIES] if _labels(h).get(label) == wanted]
    return run_report(owner, histories, jobs, RealClock().now())


def _labels(document: Document) -> dict[str, str]:
    return document["metadata"].get("labels") or {}


def _print(report: RunReport) -> None:
    accounts = report.accounts
    state = "over" if report.is_over else "running"
    out.print(
        f"[bold]{report.title}[/] {state}: {accounts.wall_s:.1f} s × {accounts.ranks} ranks, "
        f"step {report.step}"
        + (f", saved at {report.saved_step}" if report.saved_step >= 0 else "")
    )
    table = Table(box=None, show_header=False, pad_edge=False)
    for _ in range(3):
        table.add_column(justify="left")
    for account in ACCOUNTS:
        seconds, share = accounts.seconds[account], accounts.share(account)
        if seconds < 0.005:
            continue
        style = "green" if account == PRODUCTIVE else "yellow"
        bar = "█" * round(share * BAR) or "▏"
        table.add_row(
            f"  {account.replace('_', ' ')}",
            f"{seconds:9.1f} s {share * 100:5.1f} %",
            f"[{style}]{bar}[/]",
        )
    out.print(table)
    kept, held, used = (
        f"{share * 100:.1f} %"
        for share in (accounts.effective, accounts.scheduling_goodput, accounts.runtime_goodput)
    )
    out.print(f"  effective {kept} = scheduling {held} × runtime {used}")
    if report.restarts:
        lost = ", ".join(map(str, report.lost_steps)) or "unknown"
        out.print(f"  {report.restarts} restarts; steps lost: {lost}")
    for attempt in report.gang[1:]:
        step = f" from step {attempt.step}" if attempt.step >= 0 else ""
        who = f" with spare {', '.join(attempt.spares)}" if attempt.spares else ""
        text = f"  attempt {attempt.number}: {attempt.ranks} ranks{step}{who}: {attempt.why}"
        out.print(text, markup=False)
    if report.spare_s:
        beside = report.spare_s / (accounts.rank_seconds or 1) * 100
        out.print(f"  spares waited for {report.spare_s:.1f} s, {beside:.1f} % beside the ranks")
    for rank, score in report.scores.items():
        if score == score and score > SLOW:
            out.print(f"  [yellow]rank {rank} is slow[/]: {score:.2f} times the median rank's step")
    _print_advice(report)
    for note in report.notes:
        out.print(f"  note: {note}", markup=False)


def _print_advice(report: RunReport) -> None:
    advice = report.advice
    if advice is None or report.step_s is None or report.save_s is None:
        return
    out.print(
        f"  a step takes {report.step_s * 1000:.0f} ms, a save stalls for "
        f"{report.save_s * 1000:.0f} ms: save every {advice.every_steps} steps "
        f"({advice.interval_s:.0f} s), which keeps {advice.kept * 100:.1f} %"
    )
