"""Groups of pods in a whole cluster on virtual time, from manifests as kubectl sends them."""

from __future__ import annotations

from kubarium.api.kinds import (
    COMPOSITE_POD_GROUPS,
    GANG_WORKLOADS,
    JOB_SETS,
    JOBS,
    NAMESPACES,
    POD_GROUPS,
    PODS,
)
from kubarium.cluster.file import ClusterFile, NodePool
from kubarium.testing import run_virtual
from tests.conftest import ROOT

RACK = "example.com/rack"

DISAGGREGATED = """
apiVersion: scheduling.k8s.io/v1beta1
kind: Workload
metadata: {name: serving}
spec:
  controllerRef: {apiGroup: apps.example.com, kind: Serving, name: serving}
  compositePodGroupTemplates:
    - name: replica
      schedulingPolicy: {gang: {minGroupCount: 2}}
      disruptionMode: {all: {}}
      podGroupTemplates:
        - name: prefill
          schedulingPolicy: {gang: {minCount: 2}}
          schedulingConstraints: {topology: [{key: example.com/rack}]}
          disruptionMode: {all: {}}
        - name: decode
          schedulingPolicy: {gang: {minCount: 2}}
          schedulingConstraints: {topology: [{key: example.com/rack}]}
          disruptionMode: {all: {}}
---
apiVersion: scheduling.k8s.io/v1alpha3
kind: CompositePodGroup
metadata: {name: replica-0}
spec:
  workloadRef: {workloadName: serving, templateName: replica}
  schedulingPolicy: {gang: {minGroupCount: 2}}
  disruptionMode: {all: {}}
---
apiVersion: scheduling.k8s.io/v1beta1
kind: PodGroup
metadata: {name: prefill-0}
spec:
  parentCompositePodGroupName: replica-0
  workloadRef: {workloadName: serving, templateName: prefill}
  schedulingPolicy: {gang: {minCount: 2}}
  schedulingConstraints: {topology: [{key: example.com/rack}]}
  disruptionMode: {all: {}}
---
apiVersion: scheduling.k8s.io/v1beta1
kind: PodGroup
metadata: {name: decode-0}
spec:
  parentCompositePodGroupName: replica-0
  workloadRef: {workloadName: serving, templateName: decode}
  schedulingPolicy: {gang: {minCount: 2}}
  schedulingConstraints: {topology: [{key: example.com/rack}]}
  disruptionMode: {all: {}}
"""

MEMBER = """
apiVersion: batch/v1
kind: Job
metadata: {name: %(name)s}
spec:
  parallelism: 2
  completions: 2
  template:
    metadata: {annotations: {kubarium.dev/run-duration: 300s}}
    spec:
      restartPolicy: Never
      schedulingGroup: {podGroupName: %(name)s}
      containers:
        - name: main
          image: busybox
          resources: {requests: {cpu: "%(cpu)s"}}
"""

GANG_JOB = """
apiVersion: batch/v1
kind: Job
metadata: {name: train}
spec:
  parallelism: 4
  completions: 4
  completionMode: Indexed
  scheduling:
    schedulingPolicy: {gang: {}}
    schedulingConstraints: {topology: [{key: example.com/rack}]}
    disruptionMode: {all: {}}
  template:
    metadata: {annotations: {kubarium.dev/run-duration: 60s}}
    spec:
      restartPolicy: Never
      %(extra)s
      containers:
        - name: main
          image: busybox
          resources: {requests: {cpu: "1"}}
"""

HIGH = """
apiVersion: scheduling.k8s.io/v1
kind: PriorityClass
metadata: {name: high}
value: 1000
"""


def racks(**cpus: int) -> ClusterFile:
    pools = [
        NodePool(
            name,
            1,
            "simulated",
            {"cpu": str(cpu), "memory": "16Gi", "pods": "50"},
            {RACK: name},
            exact_name=True,
        )
        for name, cpu in cpus.items()
    ]
    return ClusterFile(pools)


async def placed(cluster):
    return {
        p["metadata"]["name"]: p["spec"].get("nodeName")
        for p in (await cluster.client.list(PODS, "default")).items
        if p.get("status", {}).get("phase") not in ("Succeeded", "Failed")
    }


async def nodes_of(cluster, job):
    return {n for name, n in (await placed(cluster)).items() if name.startswith(job)}


def test_prefill_and_decode_start_together_on_a_rack_each():
    async def story(cluster):
        await cluster.apply(DISAGGREGATED)
        await cluster.apply(MEMBER % {"name": "decode-0", "cpu": "2"})
        await cluster.clock.sleep(5)
        assert set((await placed(cluster)).values()) == {None}, "the other group has no pods yet"
        await cluster.apply(MEMBER % {"name": "prefill-0", "cpu": "1"})
        await cluster.clock.sleep(5)
        assert await nodes_of(cluster, "decode") == {"r2"}
        assert await nodes_of(cluster, "prefill") == {"r1"}
        told = await cluster.condition(
            COMPOSITE_POD_GROUPS, "replica-0", "CompositePodGroupInitiallyScheduled"
        )
        assert told["status"] == "True"
        for job in ("decode-0", "prefill-0"):
            await cluster.until_true(JOBS, job, "Complete", timeout_s=900)

    run_virtual(story, file=racks(r1=3, r2=5))


def test_a_composite_that_does_not_fit_holds_nothing_and_says_why():
    async def story(cluster):
        await cluster.apply(DISAGGREGATED)
        for name in ("decode-0", "prefill-0"):
            await cluster.apply(MEMBER % {"name": name, "cpu": "2"})
        await cluster.clock.sleep(5)
        assert set((await placed(cluster)).values()) == {None}
        told = await cluster.condition(
            COMPOSITE_POD_GROUPS, "replica-0", "CompositePodGroupInitiallyScheduled"
        )
        assert told["reason"] == "Unschedulable"
        assert "needs 2 groups at once, 1 found room" in told["message"]

    run_virtual(story, file=racks(r1=3, r2=5))


def test_a_job_with_scheduling_runs_as_a_gang_in_one_rack_and_cleans_up():
    async def story(cluster):
        await cluster.apply(GANG_JOB % {"extra": ""})
        await cluster.clock.sleep(5)
        assert await nodes_of(cluster, "train") == {"r2"}
        [workload] = (await cluster.client.list(GANG_WORKLOADS, "default")).items
        [group] = (await cluster.client.list(POD_GROUPS, "default")).items
        assert group["spec"]["schedulingPolicy"] == {"gang": {"minCount": 4}}
        assert workload["spec"]["controllerRef"]["name"] == "train"
        await cluster.until_true(JOBS, "train", "Complete", timeout_s=600)
        await cluster.client.delete(JOBS, "train", "default", propagation_policy="Background")

        async def gone():
            kinds = (GANG_WORKLOADS, POD_GROUPS, PODS)
            return not any([(await cluster.client.list(k, "default")).items for k in kinds])

        await cluster.until(gone, 120, "the Job's objects go with it")

    run_virtual(story, file=racks(r1=3, r2=5))


def test_deleting_a_running_gang_job_takes_its_pods_and_groups():
    async def story(cluster):
        await cluster.apply(GANG_JOB % {"extra": ""})
        await cluster.clock.sleep(5)
        await cluster.client.delete(JOBS, "train", "default", propagation_policy="Background")

        async def gone():
            kinds = (GANG_WORKLOADS, POD_GROUPS, PODS)
            return not any([(await cluster.client.list(k, "default")).items for k in kinds])

        await cluster.until(gone, 120, "the Job's objects go with it")

    run_virtual(story, file=racks(r1=3, r2=5))


def test_a_gang_job_of_high_priority_takes_the_place_of_a_whole_composite():
    async def story(cluster):
        await cluster.apply(DISAGGREGATED)
        for name in ("decode-0", "prefill-0"):
            await cluster.apply(MEMBER % {"name": name, "cpu": "2"})
        await cluster.clock.sleep(5)
        assert None not in (await placed(cluster)).values()
        await cluster.apply(HIGH)
        await cluster.apply(GANG_JOB % {"extra": "priorityClassName: high"})
        await cluster.until_true(COMPOSITE_POD_GROUPS, "replica-0", "DisruptionTarget")
        told = await cluster.condition(COMPOSITE_POD_GROUPS, "replica-0", "DisruptionTarget")
        assert told["reason"] == "PreemptionByScheduler"
        await cluster.until_true(JOBS, "train", "Complete", timeout_s=900)
        [group] = [
            g
            for g in (await cluster.client.list(POD_GROUPS, "default")).items
            if g["metadata"]["name"].startswith("train")
        ]
        assert group["spec"]["priority"] == 1000
        for job in ("decode-0", "prefill-0"):
            await cluster.until_true(JOBS, job, "Complete", timeout_s=3000)
        told = await cluster.condition(COMPOSITE_POD_GROUPS, "replica-0", "DisruptionTarget")
        assert (told["status"], told["reason"]) == ("False", "Scheduled"), "it has run again"

    run_virtual(story, file=racks(r1=5, r2=5))


def test_a_namespace_with_groups_can_be_deleted():
    async def story(cluster):
        space = "apiVersion: v1\nkind: Namespace\nmetadata: {name: team}\n"
        await cluster.apply(space)
        for text in (DISAGGREGATED, GANG_JOB % {"extra": ""}):
            await cluster.apply(
                text.replace("metadata: {name:", "metadata: {namespace: team, name:")
            )
        await cluster.clock.sleep(5)
        await cluster.client.delete(NAMESPACES, "team")

        async def gone():
            listed = (await cluster.client.list(NAMESPACES)).items
            return "team" not in [n["metadata"]["name"] for n in listed]

        await cluster.until(gone, 300, "the namespace is gone")

    run_virtual(story, file=racks(r1=5, r2=5))


def test_the_examples_run():
    async def story(cluster):
        for name in ("job", "composite"):
            await cluster.apply((ROOT / "examples/gangs" / f"{name}.yaml").read_text())
        for job in ("train", "prefill", "decode"):
            await cluster.until_true(JOBS, job, "Complete", timeout_s=300)
        told = await cluster.condition(
            COMPOSITE_POD_GROUPS, "replica", "CompositePodGroupInitiallyScheduled"
        )
        assert told["message"] == "3 pods of the hierarchy were scheduled together"

    run_virtual(story, file=racks(r1=2))


JOB_SET = """
apiVersion: scheduling.k8s.io/v1beta1
kind: Workload
metadata: {name: run}
spec:
  controllerRef: {apiGroup: jobset.x-k8s.io, kind: JobSet, name: run}
  compositePodGroupTemplates:
    - name: all
      schedulingPolicy: {gang: {minGroupCount: 2}}
      podGroupTemplates:
        - name: workers
          schedulingPolicy: {gang: {minCount: 2}}
          schedulingConstraints: {topology: [{key: example.com/rack}]}
---
apiVersion: scheduling.k8s.io/v1alpha3
kind: CompositePodGroup
metadata: {name: run-all}
spec:
  workloadRef: {workloadName: run, templateName: all}
  schedulingPolicy: {gang: {minGroupCount: 2}}
---
apiVersion: jobset.x-k8s.io/v1alpha2
kind: JobSet
metadata: {name: run}
spec:
  replicatedJobs:
    - name: slice
      replicas: 2
      template:
        metadata:
          annotations:
            scheduling.k8s.io/group-template-name: workers
            scheduling.k8s.io/parent-composite-podgroup: run-all
        spec:
          parallelism: 2
          completions: 2
          template:
            metadata: {annotations: {kubarium.dev/run-duration: 60s}}
            spec:
              restartPolicy: Never
              containers:
                - name: main
                  image: busybox
                  resources: {requests: {cpu: "2"}}
"""


def test_the_jobs_of_a_jobset_become_groups_of_its_composite():
    async def story(cluster):
        await cluster.apply(JOB_SET)
        await cluster.clock.sleep(5)
        groups = (await cluster.client.list(POD_GROUPS, "default")).items
        assert len(groups) == 2
        assert {g["spec"]["parentCompositePodGroupName"] for g in groups} == {"run-all"}
        assert set((await placed(cluster)).values()) == {None}, "one rack holds one slice"

    run_virtual(story, file=racks(r1=3, r2=4))


def test_the_jobs_of_a_jobset_start_on_a_rack_each():
    async def story(cluster):
        await cluster.apply(JOB_SET)
        await cluster.clock.sleep(5)
        slices = [await nodes_of(cluster, f"run-slice-{i}") for i in range(2)]
        assert sorted(map(sorted, slices)) == [["r1"], ["r2"]]
        await cluster.until_true(JOB_SETS, "run", "Completed", timeout_s=600)
        told = await cluster.condition(
            COMPOSITE_POD_GROUPS, "run-all", "CompositePodGroupInitiallyScheduled"
        )
        assert told["status"] == "True"

    run_virtual(story, file=racks(r1=4, r2=4))
