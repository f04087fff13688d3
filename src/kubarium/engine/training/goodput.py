"""Where a training run's time went: every second of every rank in exactly one account.

The accounts of a run sum to wall time × ranks, by construction: spans that overlap are cut where
the later one begins (a crash leaves open ends), and time that no span covers is ``other``. What a
step counts as depends on the run as a whole: a step that was finished before and is done again is
``recomputed``, not progress; the first step of an attempt beyond the usual time is ``first_step``;
waiting while another rank saves is ``checkpoint``, waiting for ranks that are slower than the
median is ``straggler``.

Definitions: Google's ML Productivity Goodput (scheduling × runtime × program goodput) and Meta's
effective training time ratio (arXiv 2410.21680).

Worked example, two ranks, 10 s of wall: both queue for 2 s, step for 6 s (steps 1 to 3), crash,
restart for 1 s and repeat step 3 in 1 s. Accounts: queue 4, productive 12, restart 2, recomputed 2;
together 20 = 10 × 2, and 60 % is kept.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from statistics import median

# What a second of a rank can be. The order is that of a run, and of every report.
QUEUE = "queue"  # admitted to no quota yet
ASSEMBLY = "assembly"  # waits for the rest of its gang, or for room
IMAGE = "image"  # image, volumes and devices are made ready
IMPORT = "import"  # the process starts and loads its libraries
RENDEZVOUS = "rendezvous"  # waits for its peers to connect
FIRST_STEP = "first_step"  # compiling and warming up, beyond a usual step
PRODUCTIVE = "productive"  # steps that are kept
CHECKPOINT = "checkpoint"  # stands still for a save
RECOMPUTED = "recomputed"  # steps done again after a failure
STRAGGLER = "straggler"  # waits for ranks slower than the median
HANG = "hang"  # no progress until somebody noticed
RESTART = "restart"  # from a failure to the next process
RESIZE = "resize"  # the gang or its resources change size
OTHER = "other"  # covered by no span
STEP = "step"  # a span only: booked as one of the above

ACCOUNTS = (
    QUEUE,
    ASSEMBLY,
    IMAGE,
    IMPORT,
    RENDEZVOUS,
    FIRST_STEP,
    PRODUCTIVE,
    CHECKPOINT,
    RECOMPUTED,
    STRAGGLER,
    HANG,
    RESTART,
    RESIZE,
    OTHER,
)
# Before these a rank holds nothing: what they take is the scheduler's loss, not the run's.
UNALLOCATED = frozenset({QUEUE, ASSEMBLY})


@dataclass(frozen=True, slots=True)
class Span:
    """One rank, busy with one thing from ``began`` to ``ended`` (seconds on any common clock).

    For ``STEP``: ``step`` is its number in the run, ``waited_s`` the part spent waiting for peers
    and ``first`` whether it is the attempt's first. ``done`` is whether the step was finished: one
    that a crash interrupted is done again, and its time is lost. A span may stand for the last
    ``count`` steps up to ``step``, which keeps the history of a long run short.
    """

    began: float
    ended: float
    what: str
    step: int = 0
    waited_s: float = 0.0
    first: bool = False
    done: bool = True
    count: int = 1


@dataclass(frozen=True, slots=True)
class Accounts:
    """Rank-seconds by account, in the order of ACCOUNTS; they sum to ``wall_s`` × ``ranks``."""

    wall_s: float
    ranks: int
    seconds: Mapping[str, float]

    @property
    def rank_seconds(self) -> float:
        """What the accounts add up to."""
        return self.wall_s * self.ranks

    def share(self, account: str) -> float:
        """An account's part of all rank-seconds, 0 to 1; 0 for a run without time."""
        return self.seconds[account] / self.rank_seconds if self.rank_seconds else 0.0

    @property
    def effective(self) -> float:
        """Effective training time ratio: kept progress over everything, queueing included."""
        return self.share(PRODUCTIVE)

    @property
    def scheduling_goodput(self) -> float:
        """The share of time in which the whole gang held its resources; 0 without time."""
        if not self.rank_seconds:
            return 0.0
        return 1.0 - sum(self.share(account) for account in UNALLOCATED)

    @property
    def runtime_goodput(self) -> float:
        """Kept progress over the time in which resources were held."""
        held = self.scheduling_goodput
        return self.share(PRODUCTIVE) / held if held > 0 else 0.0

    def check(self) -> None:
        """Raise AssertionError unless the accounts sum to wall time × ranks."""
        total, wanted = sum(self.seconds.values()), self.rank_seconds
        assert abs(total - wanted) <= 1e-6 * max(wanted, 1.0), f"{total} of {wanted} s"
        assert all(value >= 0 for value in self.seconds.values()), dict(self.seconds)


def account(ranks: Sequence[Sequence[Span]], began: float, ended: float) -> Accounts:
    """The accounts of a run from ``began`` to ``ended``; one list of spans for each rank.

    Raises ValueError if the run ends before it begins or a span has an unknown name.
    """
    if ended < began:
        raise ValueError(f"the run ends at {ended}, before it begins at {began}")
    cut = [_cut(spans, began, ended) for spans in ranks]
    own = [
        _merged([(max(s.began, began), min(s.ended, ended)) for s in spans if s.what == CHECKPOINT])
        for spans in ranks
    ]
    saves = _merged([piece for pieces in own for piece in pieces])
    usual = _usual_step_s(cut)
    work = _median_work(cut, own)
    book = dict.fromkeys(ACCOUNTS, 0.0)
    for spans, pieces in zip(cut, own, strict=True):
        book[CHECKPOINT] += sum(until - since for since, until in pieces)
        _book_rank(book, spans, usual, work, pieces, saves)
    covered = sum(book.values())
    book[OTHER] += max(0.0, (ended - began) * len(ranks) - covered)
    return Accounts(ended - began, len(ranks), book)


def _cut(spans: Iterable[Span], began: float, ended: float) -> list[Span]:
    """Spans in order, within the run, none reaching into the next.

    Saves are left out: they lie within the steps after which they are made.
    """
    found: list[Span] = []
    for span in sorted(spans, key=lambda s: (s.began, s.ended)):
        if span.what != STEP and span.what not in ACCOUNTS:
            raise ValueError(f"what: {span.what!r} is no account; known: {', '.join(ACCOUNTS)}")
        if span.what == CHECKPOINT:
            continue
        start, end = max(span.began, began), min(span.ended, ended)
        if found and found[-1].ended > start:
            found[-1] = _with_times(found[-1], found[-1].began, start)
        if end > start:
            found.append(_with_times(span, start, end))
    return [span for span in found if span.ended > span.began]


def _with_times(span: Span, began: float, ended: float) -> Span:
    waited = min(span.waited_s, ended - began)
    return replace(span, began=began, ended=ended, waited_s=waited)


def _merged(pieces: list[tuple[float, float]]) -> list[tuple[float, float]]:
    """The union of some intervals, in order."""
    found: list[tuple[float, float]] = []
    for began, ended in sorted(piece for piece in pieces if piece[1] > piece[0]):
        if found and began <= found[-1][1]:
            found[-1] = (found[-1][0], max(found[-1][1], ended))
        else:
            found.append((began, ended))
    return found


def _overlap(span: Span, pieces: Sequence[tuple[float, float]]) -> float:
    """How much of the span lies within ordered, disjoint intervals."""
    total = 0.0
    for began, ended in pieces[max(0, bisect_right(pieces, (span.began,)) - 1) :]:
        if began >= span.ended:
            break
        total += max(0.0, min(ended, span.ended) - max(began, span.began))
    return total


def _usual_step_s(ranks: Iterable[Sequence[Span]]) -> float:
    """The median step, first ones left out; 0 without any."""
    times = [
        (s.ended - s.began) / s.count
        for spans in ranks
        for s in spans
        if s.what == STEP and not s.first
    ]
    return median(times) if times else 0.0


def _median_work(
    ranks: Sequence[Sequence[Span]], own: Sequence[Sequence[tuple[float, float]]]
) -> dict[tuple[int, int], tuple[float, float]]:
    """For each (step, time it is done for): the median and the longest work of the ranks.

    Work is a step's time without the waiting for peers and without saves.
    """
    work: dict[tuple[int, int], list[float]] = {}
    for spans, saves in zip(ranks, own, strict=True):
        times: dict[int, int] = {}
        for span in spans:
            if span.what == STEP:
                times[span.step] = times.get(span.step, 0) + 1
                key = (span.step, times[span.step])
                length = span.ended - span.began - span.waited_s - _overlap(span, saves)
                work.setdefault(key, []).append(max(0.0, length))
    return {key: (median(values), max(values)) for key, values in work.items()}


def _book_rank(
    book: dict[str, float],
    spans: Sequence[Span],
    usual: float,
    work: Mapping[tuple[int, int], tuple[float, float]],
    own: Sequence[tuple[float, float]],
    saves: Sequence[tuple[float, float]],
) -> None:
    """``own`` are this rank's saves, which are booked already, ``saves`` those of all ranks."""
    finished = 0
    times: dict[int, int] = {}
    for span in spans:
        inside = _overlap(span, own)
        length = span.ended - span.began - inside
        if span.what != STEP:
            book[span.what] += length
            continue
        times[span.step] = times.get(span.step, 0) + 1
        if span.step <= finished or not span.done:
            book[RECOMPUTED] += length
            continue
        new = min(1.0, (span.step - finished) / span.count)
        book[RECOMPUTED] += length * (1 - new)
        length *= new
        finished = span.step
        if span.first:
            late = max(0.0, length - usual) if usual else 0.0
            book[FIRST_STEP] += late
            book[PRODUCTIVE] += length - late
            continue
        waited = min(span.waited_s * new, length)
        saving = min(waited, (_overlap(span, saves) - inside) * new)
        middle, longest = work[span.step, times[span.step]]
        slack = min(waited - saving, longest - middle)
        book[CHECKPOINT] += saving
        book[STRAGGLER] += slack
        book[PRODUCTIVE] += length - saving - slack


def stragglers(ranks: Sequence[Sequence[Span]], last: int = 50) -> list[float]:
    """A score for each rank over its last steps: its work over the median of all ranks' work.

    1.0 is as fast as the median rank, 2.0 takes twice as long, NaN has no steps. Work is a step's
    time without the waiting for peers: in lockstep training every rank's step takes equally long,
    and only the slow one does not wait.
    """
    works: list[float] = []
    for spans in ranks:
        steps = [s for s in spans if s.what == STEP and s.done and not s.first][-last:]
        times = [(s.ended - s.began - s.waited_s) / s.count for s in steps]
        works.append(median(times) if times else float("nan"))
    known = [work for work in works if work == work]
    middle = median(known) if known else 0.0
    return [work / middle if middle > 0 else float("nan") for work in works]
