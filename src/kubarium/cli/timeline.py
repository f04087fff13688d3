"""A run's ranks beside each other in time: one page without any network, or a Chrome trace."""

from __future__ import annotations

import html
from importlib import resources
from typing import Any

import orjson

from kubarium.engine.training.goodput import ACCOUNTS, STEP, Span
from kubarium.view.goodput import RunReport

COLOURS = {
    "queue": "#b8b8b8",
    "assembly": "#9c9c9c",
    "image": "#8fb3d9",
    "import": "#6f8fc9",
    "rendezvous": "#a98fd0",
    "first_step": "#7fc8a9",
    "productive": "#3f9f5f",
    "step": "#3f9f5f",
    "checkpoint": "#e0b93f",
    "recomputed": "#e08f3f",
    "straggler": "#d9d16f",
    "hang": "#d64545",
    "restart": "#c76fa8",
    "resize": "#6fc7c7",
    "other": "#e4e4e4",
}


def chrome_trace(report: RunReport) -> dict[str, Any]:
    """Trace Event Format: one thread for each rank, times in microseconds from the run's start."""
    events: list[dict[str, Any]] = [
        {"ph": "M", "pid": 1, "name": "process_name", "args": {"name": report.title}}
    ]
    for rank, spans in report.ranks.items():
        name = {"name": f"rank {rank}"}
        events.append({"ph": "M", "pid": 1, "tid": rank, "name": "thread_name", "args": name})
        events += [_event(rank, span, report.began) for span in spans if span.ended > span.began]
    return {"traceEvents": events, "displayTimeUnit": "ms"}


def _event(rank: int, span: Span, began: float) -> dict[str, Any]:
    return {
        "ph": "X",
        "pid": 1,
        "tid": rank,
        "name": _label(span),
        "cat": span.what,
        "ts": round((span.began - began) * 1e6),
        "dur": round((span.ended - span.began) * 1e6),
        "args": {"waited_s": span.waited_s} if span.what == STEP else {},
    }


def _label(span: Span) -> str:
    if span.what != STEP:
        return span.what
    return (
        f"step {span.step}"
        if span.count == 1
        else f"steps {span.step - span.count + 1}-{span.step}"
    )


def page(report: RunReport) -> str:
    """A self-contained HTML page: the accounts, then a row for each rank, zoomed by the wheel."""
    rows = [
        {
            "rank": rank,
            "spans": [
                [
                    round(span.began - report.began, 3),
                    round(span.ended - report.began, 3),
                    span.what,
                    _label(span),
                    round(span.waited_s, 3),
                ]
                for span in spans
                if span.ended > span.began
            ],
        }
        for rank, spans in report.ranks.items()
    ]
    accounts = report.accounts
    shares = [
        [account, round(accounts.share(account), 4), round(accounts.seconds[account], 1)]
        for account in ACCOUNTS
        if accounts.seconds[account] > 0.005
    ]
    data = {"rows": rows, "shares": shares, "wall": report.accounts.wall_s, "colours": COLOURS}
    text = orjson.dumps(data).decode().replace("</", "<\\/")
    title = html.escape(report.title)
    summary = html.escape(
        f"{accounts.wall_s:.1f} s × {accounts.ranks} ranks, {accounts.effective * 100:.1f} % kept, "
        f"{report.restarts} restarts, step {report.step}"
    )
    template = (resources.files("kubarium.cli") / "timeline.html").read_text(encoding="utf-8")
    return template.replace("TITLE", title).replace("SUMMARY", summary).replace("DATA", text)
