"""A run as a page and as a Chrome trace."""

import json
import re

from kubarium.cli.timeline import COLOURS, chrome_trace, page
from kubarium.engine.training.goodput import ACCOUNTS, Span, account
from kubarium.view.goodput import RunReport


def report(title="jobset/train"):
    ranks = {
        0: [
            Span(10, 12, "import"),
            Span(12, 13, "step", 1, 0.25),
            Span(13, 15, "step", 3, count=2),
        ],
        1: [Span(10, 11, "import"), Span(14, 15, "hang")],
    }
    accounts = account(list(ranks.values()), 10, 15)
    nothing = ((), 0, (), {}, 3, -1, None, None, None)
    return RunReport(title, 10, 15, True, accounts, ranks, *nothing)


def test_a_trace_has_a_thread_for_each_rank_and_times_from_the_start():
    events = chrome_trace(report())["traceEvents"]
    spans = [e for e in events if e["ph"] == "X"]
    assert [(e["tid"], e["name"], e["ts"], e["dur"]) for e in spans] == [
        (0, "import", 0, 2_000_000),
        (0, "step 1", 2_000_000, 1_000_000),
        (0, "steps 2-3", 3_000_000, 2_000_000),
        (1, "import", 0, 1_000_000),
        (1, "hang", 4_000_000, 1_000_000),
    ]
    assert {e["args"]["name"] for e in events if e["name"] == "thread_name"} == {"rank 0", "rank 1"}


def test_a_page_holds_its_data_and_asks_nobody_for_more():
    text = page(report("jobset/<b>train"))
    assert "jobset/&lt;b&gt;train" in text
    assert "<b>train" not in text
    assert not re.search(r"(src|href)=|https?://", text)
    data = json.loads(re.search(r"const D=(\{.*?\}),H=", text).group(1))
    assert [row["rank"] for row in data["rows"]] == [0, 1]
    assert {share[0] for share in data["shares"]} == {"import", "productive", "hang", "other"}


def test_every_account_has_a_colour():
    assert set(ACCOUNTS) <= set(COLOURS)
