"""Who takes part in a gang's next attempt."""

from hypothesis import given
from hypothesis import strategies as st

from kubarium.engine.training.gang import (
    BEGIN,
    DONE,
    GIVE_UP,
    WAIT,
    Attempt,
    Member,
    Scene,
    Sizes,
    decide,
)

SIZES = Sizes(wanted=4, least=2, wait_s=15.0, restarts=2)


def running(*indexes, attempt=1, **changes):
    return [
        Member(f"p{i}", i, 0, changes.get(f"p{i}", "Running"), attempt, saved=10) for i in indexes
    ]


def attempt(*indexes, number=1, failures=0, saved=10):
    return Attempt(number, tuple((f"p{i}", 0) for i in indexes), failures, saved)


def test_the_first_attempt_begins_when_all_are_there():
    waiting = [Member(f"p{i}", i) for i in range(4)]
    assert decide(Attempt(), Scene(waiting[:3]), SIZES).what == WAIT
    found = decide(Attempt(), Scene(waiting), SIZES)
    assert (found.what, found.ranks) == (BEGIN, ("p0", "p1", "p2", "p3"))


def test_a_rank_that_was_killed_for_its_memory_is_given_more_before_the_next_attempt():
    members = running(0, 1, 2, 3, p2="Failed")
    early = decide(attempt(0, 1, 2, 3), Scene(members, broken_s=1.0, growing=True), SIZES)
    assert (early.what, early.look_in_s) == (WAIT, 4.0)
    assert decide(attempt(0, 1, 2, 3), Scene(members, broken_s=1.0), SIZES).what == BEGIN
    late = Scene(members, broken_s=5.0, growing=True)
    assert decide(attempt(0, 1, 2, 3), late, SIZES).what == BEGIN


def test_what_goes_well_is_left_alone():
    assert decide(attempt(0, 1, 2, 3), Scene(running(0, 1, 2, 3)), SIZES).what == WAIT


def test_a_spare_that_has_the_lost_index_takes_its_rank():
    members = [*running(0, 1, 3), Member("spare", 2)]
    found = decide(attempt(0, 1, 2, 3), Scene(members), SIZES)
    assert (found.what, found.ranks) == (BEGIN, ("p0", "p1", "spare", "p3"))
    assert (found.lost, found.failures, found.gentle) == ((2,), 0, False)


def test_a_pod_that_is_deleted_gives_all_time_to_save():
    members = [*running(0, 1, 3), Member("spare", 2)]
    scene = Scene(members, leaving=frozenset({"p2"}))
    assert decide(attempt(0, 1, 2, 3), scene, SIZES).gentle


def test_a_launcher_that_was_started_again_is_another_one():
    members = [*running(0, 1, 3), Member("p2", 2, starts=1)]
    found = decide(attempt(0, 1, 2, 3), Scene(members), SIZES)
    assert (found.what, found.lost) == (BEGIN, (2,))


def test_without_room_it_waits_and_then_goes_on_smaller():
    members = running(0, 2, 3)
    early = decide(attempt(0, 1, 2, 3), Scene(members, broken_s=1.0), SIZES)
    assert (early.what, early.look_in_s) == (WAIT, 14.0)
    hopeless = Scene(members, hopeless=True, broken_s=2.0)
    found = decide(attempt(0, 1, 2, 3), hopeless, SIZES)
    assert (found.what, found.ranks) == (BEGIN, ("p0", "p2", "p3"))


def test_a_pod_that_has_its_room_is_waited_for_longer():
    scene = Scene(running(0, 2, 3), coming=1, broken_s=30.0)
    found = decide(attempt(0, 1, 2, 3), scene, SIZES)
    assert (found.what, found.look_in_s) == (WAIT, 90.0)


def test_below_the_least_number_it_waits_for_good():
    found = decide(attempt(0, 1, 2, 3), Scene(running(3), broken_s=1e6), SIZES)
    assert (found.what, found.look_in_s) == (WAIT, None)


def test_it_grows_once_nothing_else_is_on_its_way():
    members = [*running(0, 2), Member("p1", 1), Member("p3", 3)]
    assert decide(attempt(0, 2), Scene(members, coming=1), SIZES).what == WAIT
    found = decide(attempt(0, 2), Scene(members), SIZES)
    assert (found.what, found.gentle, found.is_broken) == (BEGIN, True, False)
    assert found.ranks == ("p0", "p1", "p2", "p3")


def test_ranks_that_lose_a_peer_are_waited_for_a_moment():
    members = running(0, 1, 2, 3, p1="Failed")
    early = decide(attempt(0, 1, 2, 3), Scene(members), SIZES)
    assert (early.what, early.look_in_s) == (WAIT, 0.5)
    assert decide(attempt(0, 1, 2, 3), Scene(members, broken_s=0.5), SIZES).what == BEGIN
    all_down = [Member(f"p{i}", i, 0, "Failed", 1) for i in range(4)]
    assert decide(attempt(0, 1, 2, 3), Scene(all_down), SIZES).what == BEGIN


def test_failures_in_a_row_give_it_up_and_a_new_checkpoint_forgives_them():
    members = [Member(f"p{i}", i, 0, "Failed", 1, 1, 10) for i in range(4)]
    assert decide(attempt(0, 1, 2, 3, failures=1), Scene(members), SIZES).what == BEGIN
    assert decide(attempt(0, 1, 2, 3, failures=2), Scene(members), SIZES).what == GIVE_UP
    forgiven = decide(attempt(0, 1, 2, 3, failures=2, saved=9), Scene(members), SIZES)
    assert (forgiven.what, forgiven.failures) == (BEGIN, 1)


def test_it_is_done_when_all_have_succeeded():
    members = [Member(f"p{i}", i, 0, "Succeeded", 1) for i in range(4)]
    assert decide(attempt(0, 1, 2, 3), Scene(members), SIZES).what == DONE
    assert decide(attempt(0, 1, 2, 3), Scene(members[:3]), SIZES).what != DONE


members = st.lists(
    st.builds(
        Member,
        st.sampled_from([f"p{i}" for i in range(6)]),
        st.integers(0, 5),
        st.integers(0, 1),
        st.sampled_from(["Waiting", "Running", "Failed", "Stopped", "Succeeded"]),
        st.integers(0, 2),
        st.integers(0, 255),
        st.integers(-1, 20),
    ),
    unique_by=lambda m: m.uid,
    max_size=6,
)


@given(
    members,
    st.lists(st.integers(0, 5), unique=True, max_size=4),
    st.integers(0, 2),
    st.floats(0, 100),
    st.booleans(),
)
def test_an_attempt_has_each_index_once_in_order_and_never_too_few(
    found, before, number, broken_s, hopeless
):
    now = attempt(*before, number=number) if number and before else Attempt()
    scene = Scene(found, broken_s=broken_s, hopeless=hopeless)
    decision = decide(now, scene, SIZES)
    assert decision == decide(now, scene, SIZES)
    if decision.what == BEGIN:
        index = {m.uid: m.index for m in found}
        indexes = [index[uid] for uid in decision.ranks]
        assert indexes == sorted(set(indexes))
        assert SIZES.least <= len(indexes) <= SIZES.wanted
    else:
        assert not decision.ranks
