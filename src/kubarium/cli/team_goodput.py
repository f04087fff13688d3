"""`kubarium goodput` without a run: all runs, by team, as a table, JSON or a page."""

from __future__ import annotations

import html
import sys
from collections.abc import Sequence
from pathlib import Path

import orjson
from rich.table import Table

from kubarium.api.kinds import JOB_SETS, JOBS, RANK_HISTORIES
from kubarium.base.errors import ConfigError
from kubarium.cli.connection import asking
from kubarium.cli.console import out
from kubarium.cli.timeline import COLOURS
from kubarium.client.gather import gather
from kubarium.client.http import HttpClient
from kubarium.cluster.clock import RealClock
from kubarium.engine.training.goodput import ACCOUNTS, Accounts
from kubarium.view.team_goodput import Run, Team, reports, teams

BAR = 12


def show(
    by: str,
    namespace: str,
    name: str,
    kubeconfig: Path | None,
    context: str,
    output: str,
    page_path: Path | None,
) -> None:
    """Print the teams; ``namespace`` "" is all of them."""
    if output not in ("text", "json"):
        raise ConfigError(f"--output {output!r}: write text or json")
    try:
        teams((), by)
    except ValueError as error:
        raise ConfigError(str(error)) from None
    runs = asking(name, kubeconfig, context, lambda client: _runs(client, namespace))
    found = teams(runs, by)
    if page_path is not None:
        try:
            page_path.write_text(page(found, by), encoding="utf-8")
        except OSError as error:
            raise ConfigError(f"{page_path}: cannot be written: {error.strerror}") from error
        sys.stderr.write(f"wrote {page_path}\n")
    if output == "json":
        text = orjson.dumps({"by": by, "teams": [team.to_json() for team in found]})
        sys.stdout.write(text.decode() + "\n")
    else:
        _print(found, by)


async def _runs(client: HttpClient, namespace: str) -> list[Run]:
    lists = await gather(client, (JOB_SETS, JOBS, RANK_HISTORIES), namespace)
    now = RealClock().now()
    return reports(lists[JOB_SETS], lists[JOBS], lists[RANK_HISTORIES], now)


def _print(found: Sequence[Team], by: str) -> None:
    if not found:
        out.print("no JobSet or Job has run here; start one, or look with --all-namespaces")
        return
    table = Table(box=None, pad_edge=False)
    for heading, justify in (
        (by.upper(), "left"),
        ("RUNS", "right"),
        ("RANK-HOURS", "right"),
        ("KEPT", "right"),
        ("SCHED.", "right"),
        ("RUNTIME", "right"),
        ("", "left"),
        ("MOST LOST TO", "left"),
    ):
        table.add_column(heading, justify=justify, no_wrap=True)  # type: ignore[arg-type]
    for team in found:
        kept, held, used = (
            f"{share * 100:.1f} %"
            for share in (team.effective, team.scheduling_goodput, team.runtime_goodput)
        )
        worst = team.worst
        lost = f"{worst.replace('_', ' ')} {team.share(worst) * 100:.1f} %" if worst else ""
        bar = f"[green]{'█' * round(team.effective * BAR)}[/]"
        hours = f"{team.rank_seconds / 3600:.2f}"
        table.add_row(team.name, str(len(team.runs)), hours, kept, held, used, bar, lost)
    out.print(table)


def page(found: Sequence[Team], by: str) -> str:
    """A self-contained HTML page: a bar of accounts for each team and each of its runs."""
    used = [a for a in ACCOUNTS if any(team.share(a) > 0.0005 for team in found)]
    legend = "".join(
        f'<span><i style="background:{COLOURS[a]}"></i>{html.escape(a.replace("_", " "))}</span>'
        for a in used
    )
    sections = "".join(_section(team) for team in found) or "<p>No run yet.</p>"
    title = f"Goodput by {html.escape(by)}"
    return _PAGE.replace("TITLE", title).replace("LEGEND", legend).replace("SECTIONS", sections)


def _section(team: Team) -> str:
    figures = (
        f"{len(team.runs)} runs · {team.rank_seconds / 3600:.2f} rank-hours · kept "
        f"{team.effective * 100:.1f} % = scheduling {team.scheduling_goodput * 100:.1f} % × "
        f"runtime {team.runtime_goodput * 100:.1f} %"
    )
    head = f"<h2>{html.escape(team.name)}</h2><p>{figures}</p>{_bar(team, 26)}"
    ordered = sorted(team.runs, key=lambda run: -run.report.accounts.rank_seconds)
    rows = "".join(_row(run) for run in ordered)
    return (
        f"<section>{head}<table><tr><th>run</th><th class=n>time</th>"
        f"<th class=n>kept</th><th></th></tr>"
        f"{rows}</table></section>"
    )


def _row(run: Run) -> str:
    accounts = run.report.accounts
    return (
        f"<tr><td>{html.escape(run.namespace)}/{html.escape(run.report.title)}</td>"
        f"<td class=n>{accounts.wall_s:.0f} s × {accounts.ranks}</td>"
        f"<td class=n>{accounts.effective * 100:.1f} %</td>"
        f"<td class=b>{_bar(accounts, 14)}</td></tr>"
    )


def _bar(accounts: Accounts, height: int) -> str:
    shares = ((a, accounts.share(a)) for a in ACCOUNTS)
    parts = "".join(
        f'<div style="flex:{share:.5f};background:{COLOURS[a]}" '
        f'title="{html.escape(a.replace("_", " "))}: {share * 100:.1f} % '
        f'({accounts.seconds[a]:.1f} s)"></div>'
        for a, share in shares
        if share > 0.0005
    )
    return f'<div class="bar" style="height:{height}px">{parts}</div>'


_PAGE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>TITLE</title><style>
body{font:14px/1.45 system-ui,sans-serif;margin:24px;color:#222;background:#fff;max-width:1100px}
h1{font-size:20px;margin:0 0 8px}h2{font-size:16px;margin:24px 0 0}p{margin:2px 0 8px;color:#555}
.bar{display:flex;border-radius:3px;overflow:hidden;background:#f3f3f3}
#legend{display:flex;flex-wrap:wrap;gap:4px 16px}#legend span{white-space:nowrap}
#legend i{display:inline-block;width:11px;height:11px;border-radius:2px;margin-right:5px}
table{border-collapse:collapse;width:100%;margin-top:8px;font-size:13px}
th{text-align:left;color:#777;font-weight:normal}td,th{padding:3px 12px 3px 0}
.n{white-space:nowrap;text-align:right}.b{width:55%}
</style></head><body><h1>TITLE</h1><div id="legend">LEGEND</div>SECTIONS</body></html>
"""
