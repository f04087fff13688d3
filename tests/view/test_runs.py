"""What a rank's programs are told of the run that they belong to."""

from kubarium.view.runs import run_environment

GANG = {"kubarium.dev/spares": "1"}
JOB = {"controller": True, "kind": "Job", "uid": "job-uid"}


def pod(annotations=None, **labels):
    names = {
        "jobset": "jobset.sigs.k8s.io/jobset-uid",
        "restarts": "jobset.sigs.k8s.io/restart-attempt",
        "job": "batch.kubernetes.io/job-name",
    }
    found = {names[name]: value for name, value in labels.items()}
    metadata = {"annotations": annotations or {}, "labels": found, "ownerReferences": [JOB]}
    return {"metadata": metadata}


def test_all_jobs_of_a_set_are_one_run_that_its_restarts_count():
    first = run_environment(pod(jobset="u", restarts="2", job="train-a-0"))
    assert first == {"KUBARIUM_RUN": "u", "KUBARIUM_RESTARTS": "2"}
    assert run_environment(pod(jobset="u", restarts="2", job="train-b-0")) == first


def test_a_gang_counts_its_own_attempts_and_is_a_run_of_its_own():
    in_a_set = run_environment(pod(GANG, jobset="u", restarts="1", job="train-a-0"))
    assert in_a_set == {"KUBARIUM_RUN": "u/train-a-0", "KUBARIUM_RESTARTS": "1"}
    alone = run_environment(pod(GANG, job="train"))
    assert alone == {"KUBARIUM_RUN": "job-uid", "KUBARIUM_RESTARTS": "0"}


def test_a_job_without_attempts_is_told_nothing():
    assert run_environment(pod(job="train")) == {}
