"""How a job asks for its ranks to be watched."""

import pytest

from kubarium.view.stalls import HangPolicy, hang_policy, seconds_of


def pod(**annotations):
    names = {f"kubarium.dev/hang-{key}": value for key, value in annotations.items()}
    return {"metadata": {"annotations": names}}


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("30s", 30),
        ("500ms", 0.5),
        ("2m", 120),
        ("1.5h", 5400),
        ("5", None),
        ("", None),
        ("x s", None),
    ],
)
def test_durations_have_units(text, seconds):
    assert seconds_of(text) == seconds


def test_nobody_is_watched_who_did_not_ask():
    assert hang_policy({"metadata": {}}) == HangPolicy(None, True)
    assert hang_policy(pod(timeout="5s", policy="report")) == HangPolicy(5.0, False)


@pytest.mark.parametrize(
    ("annotations", "text"),
    [
        (
            {"timeout": "soon"},
            "annotation kubarium.dev/hang-timeout: 'soon' is no positive duration",
        ),
        ({"timeout": "0s"}, "'0s' is no positive"),
        ({"timeout": "5s", "policy": "kill"}, "hang-policy: 'kill' is not one of restart, report"),
    ],
)
def test_nonsense_is_named(annotations, text):
    with pytest.raises(ValueError, match=text):
        hang_policy(pod(**annotations))
