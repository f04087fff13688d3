"""Claims that pods name and cannot use yet: kube-scheduler's sentences, and what is behind them."""

import pytest

from kubarium.engine.devices.model import ClaimSpec
from kubarium.engine.model import Claim
from kubarium.view.missing import about_claims, missing_claim, missing_claims

DIRECT = {"name": "a", "resourceClaimName": "direct"}
FROM_TEMPLATE = {"name": "b", "resourceClaimTemplateName": "t"}
MADE = {"resourceClaimStatuses": [{"name": "b", "resourceClaimName": "made"}]}


def pod(*entries, group="", **status):
    spec = {"resourceClaims": list(entries)}
    if group:
        spec["schedulingGroup"] = {"podGroupName": group}
    metadata = {"name": "p", "namespace": "ns", "uid": "u"}
    return {"metadata": metadata, "spec": spec, "status": status}


def there(**makers):
    """Claims by name, each with whom it was made for."""
    claims = (Claim(("ns", n), ClaimSpec(()), maker=m or ("", "", "")) for n, m in makers.items())
    return {claim.key: claim for claim in claims}


@pytest.mark.parametrize(
    ("subject", "claims", "text"),
    [
        (pod(DIRECT), there(direct=None), ""),
        (pod(DIRECT), there(direct=("Pod", "other", "x")), ""),
        (pod(DIRECT), {}, 'could not find ResourceClaim "ns/direct"'),
        (pod(FROM_TEMPLATE), {}, 'pod "ns/p": ResourceClaim not created yet'),
        (pod(FROM_TEMPLATE, **MADE), {}, 'could not find ResourceClaim "ns/made"'),
        (pod(FROM_TEMPLATE, **MADE), there(made=("Pod", "p", "u")), ""),
        (
            pod(FROM_TEMPLATE, **MADE),
            there(made=("Pod", "p", "an older one")),
            "ResourceClaim ns/made was not created for Pod ns/p (Pod is not owner)",
        ),
        (
            pod(FROM_TEMPLATE, **MADE),
            there(made=None),
            "ResourceClaim ns/made was not created for Pod ns/p (Pod is not owner)",
        ),
        (pod(FROM_TEMPLATE, group="g", **MADE), there(made=("PodGroup", "g", "y")), ""),
        (
            pod(FROM_TEMPLATE, group="g", **MADE),
            there(made=("PodGroup", "h", "y")),
            "ResourceClaim ns/made was not created for Pod ns/p"
            " (neither Pod nor PodGroup g is the owner)",
        ),
        (pod(FROM_TEMPLATE, resourceClaimStatuses=[{"name": "b"}]), {}, ""),
        (pod(FROM_TEMPLATE, DIRECT, **MADE), {}, 'could not find ResourceClaim "ns/made"'),
    ],
)
def test_the_first_claim_that_a_pod_cannot_use_is_named(subject, claims, text):
    assert missing_claim(subject, claims) == text


def test_all_that_a_pod_waits_for_are_named_by_their_keys():
    subject = pod(DIRECT, FROM_TEMPLATE, **MADE)
    found = missing_claims(subject, there(made=("Pod", "other", "x")))
    assert [key for key, _ in found] == [("ns", "direct"), ("ns", "made")]


@pytest.mark.parametrize(
    ("maker", "whose"), [(("Pod", "other", "x"), "that of Pod other"), (None, "nobody's")]
)
def test_whose_claim_it_is_is_said(maker, whose):
    found = list(about_claims(pod(FROM_TEMPLATE, **MADE), there(made=maker), None))
    assert found == [f"claim made is named in the pod's status, but is {whose}"]
    assert not list(about_claims(pod(FROM_TEMPLATE, **MADE), there(made=("Pod", "p", "u")), None))
