"""A rank's history: short however long it runs, its spans on the same steps everywhere."""

from itertools import pairwise

from hypothesis import given, settings
from hypothesis import strategies as st

from kubarium.node.training.history import MAX_SPANS, History


def steps(*numbers, length=1.0, waited=0.0, first=False):
    entries = [[n, n * length, (n + 1) * length, waited, int(first)] for n in numbers]
    return {"at": 0.0, "event": "steps", "steps": entries}


def test_what_comes_before_the_first_report_is_importing():
    history = History()
    history.started(10.0)
    history.take({"at": 13.0, "event": "phase", "what": "rendezvous", "began": 12.0, "ended": 13.0})
    assert [(s["what"], s["began"], s["ended"]) for s in history.documents()] == [
        ("import", 10.0, 12.0),
        ("rendezvous", 12.0, 13.0),
    ]


@settings(max_examples=50)
@given(st.integers(1, 5000), st.integers(0, 50))
def test_long_runs_stay_short_and_lose_no_step(total, start):
    history = History()
    for number in range(start + 1, start + total + 1):
        history.take(steps(number, waited=0.25))
    spans = history.documents()
    assert len(spans) <= MAX_SPANS
    assert sum(span["count"] for span in spans) == total
    assert sum(span["waited"] for span in spans) == 0.25 * total
    for before, after in pairwise(spans):
        assert before["step"] == after["step"] - after["count"]
        assert before["ended"] == after["began"]
        assert before["step"] % history.size == 0


@given(st.integers(300, 2000), st.sets(st.integers(1, 2000), max_size=20))
def test_ranks_that_save_and_ranks_that_do_not_have_spans_on_the_same_steps(total, saves):
    writer, reader = History(), History()
    for number in range(1, total + 1):
        writer.take(steps(number))
        reader.take(steps(number))
        if number in saves:
            writer.take({"at": 0.0, "event": "save", "began": number + 0.1, "ended": number + 0.2})
    size = max(writer.size, reader.size)

    def ends(history):
        return {s["step"] for s in history.documents() if s["what"] == "step"}

    coarse = {n for n in ends(writer) | ends(reader) if n % size == 0 or n == total}
    assert coarse <= ends(writer)
    assert coarse <= ends(reader)


def test_a_new_attempt_in_the_same_pod_begins_a_new_span():
    history = History()
    history.started(0.0)
    history.take(steps(1, 2, 3))
    history.started(10.0)
    history.take(steps(4, length=3.0))
    assert [s["what"] for s in history.documents()] == [
        "import",
        "step",
        "step",
        "step",
        "import",
        "step",
    ]


def test_the_first_step_stands_alone():
    history = History(size=64)
    history.take(steps(1, first=True))
    history.take(steps(2, 3, 4))
    assert [(s["count"], s.get("first", False)) for s in history.documents()] == [
        (1, True),
        (3, False),
    ]


def test_a_hang_that_goes_on_grows():
    history = History()
    history.hang(5.0, 6.0)
    history.hang(5.0, 7.0)
    assert [(s["began"], s["ended"]) for s in history.documents()] == [(5.0, 7.0)]


@given(
    st.dictionaries(
        st.sampled_from(["event", "at", "steps", "began", "what"]), st.integers() | st.text()
    )
)
def test_nonsense_is_passed_over(line):
    history = History()
    history.take(line)
    for span in history.documents():
        assert span["ended"] >= span["began"] or span["what"] != "import"
