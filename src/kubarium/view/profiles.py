"""The scheduler's configuration as the cluster itself tells it, for those who only read.

A scheduler's profiles are no API objects. What they are is published as a ConfigMap, as upstream's
guides keep the file of a scheduler that runs in the cluster: its value is a
KubeSchedulerConfiguration. Where there is none, pods are judged by the default profile.
"""

from __future__ import annotations

from collections.abc import Iterable

import orjson

from kubarium.api.manifests import decode_yaml
from kubarium.api.resource import Document
from kubarium.base.errors import ApiError
from kubarium.engine.placement.profile import DEFAULT, DEFAULT_SCHEDULER, Profile
from kubarium.view.scheduling import SchedulerConfig, SchedulerConfigError, read_config

CONFIG_NAMESPACE, CONFIG_NAME, CONFIG_KEY = "kube-system", "kube-scheduler", "config.yaml"


def config_map(config: SchedulerConfig) -> Document | None:
    """What tells others of a configuration; None for the default one, which nobody need be told."""
    if config.given is None:
        return None
    return {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": {"name": CONFIG_NAME, "namespace": CONFIG_NAMESPACE},
        "data": {CONFIG_KEY: orjson.dumps(config.given, option=orjson.OPT_INDENT_2).decode()},
    }


class Profiles:
    """The profiles by name; ``problem`` says why what is published cannot be read."""

    def __init__(self, config_maps: Iterable[Document]) -> None:
        self.problem = ""
        self.config = SchedulerConfig()
        for document in config_maps:
            metadata = document["metadata"]
            if (metadata.get("namespace"), metadata["name"]) == (CONFIG_NAMESPACE, CONFIG_NAME):
                self._read(document)
        self._by_name = {profile.scheduler_name: profile for profile in self.config.profiles}

    def _read(self, document: Document) -> None:
        try:
            value, _ = decode_yaml((document.get("data") or {}).get(CONFIG_KEY, ""))
            self.config = read_config(value)
        except (SchedulerConfigError, ApiError) as error:
            self.problem = (
                f"{CONFIG_KEY} of ConfigMap {CONFIG_NAMESPACE}/{CONFIG_NAME} is no scheduler's"
                f" configuration, so the default profile is taken for all: {error}"
            )

    @property
    def names(self) -> tuple[str, ...]:
        """The schedulers that there are, as far as is known."""
        return tuple(self._by_name)

    def of(self, scheduler: str) -> Profile:
        """The profile of a scheduler; of one that is not known, the first."""
        found = self._by_name.get(scheduler) or self.config.profiles[0]
        return DEFAULT if found == DEFAULT else found

    def about(self, scheduler: str) -> tuple[str, ...]:
        """A line that says by which rules it was judged, if these are not the usual ones."""
        if self.problem:
            return (self.problem,)
        profile = self._by_name.get(scheduler)
        usual = profile is None or profile == Profile(profile.scheduler_name)
        if usual and scheduler not in dict(self.config.spread_defaults):
            return ()
        return (f"judged by the profile of scheduler {scheduler}, which is not the default one",)


def scheduler_name(pod: Document) -> str:
    """The scheduler that a pod names, or the default one."""
    return (pod.get("spec") or {}).get("schedulerName") or DEFAULT_SCHEDULER
