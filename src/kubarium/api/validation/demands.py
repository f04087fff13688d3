"""What the schema alone demands of built-in kinds, and where rules of their own demand it instead.

In Go a missing string is the empty string, so ``required`` bites on text, lists and objects only;
numbers and booleans have their own rules where zero is not allowed.
"""

from __future__ import annotations

from dataclasses import dataclass

from kubarium.api.schema import Schema
from kubarium.api.validation.storage import VOLUME_SOURCES

_TEXTUAL = ("string", "array", "object")


def _of_containers(field: str) -> tuple[tuple[str, str], ...]:
    return (("core.v1.Container", field), ("core.v1.EphemeralContainer", field))


def _of_devices(definition: str, field: str) -> tuple[tuple[str, str], ...]:
    return tuple((f"resource.{v}.{definition}", field) for v in ("v1", "v1beta2", "v1beta1"))


def _of_groups(definition: str, field: str) -> tuple[tuple[str, str], ...]:
    versions = ("v1beta1", "v1alpha3", "v1alpha2")
    return tuple((f"scheduling.{v}.{definition}", field) for v in versions)


# (definition, field): the schema calls them required although their zero value is legitimate, or
# a rule of their own complains in better words.
_MAY_BE_EMPTY = frozenset(
    (
        ("core.v1.HTTPHeader", "value"),
        ("core.v1.Sysctl", "value"),
        ("core.v1.LimitRangeSpec", "limits"),
        ("core.v1.PodSpec", "containers"),
        ("core.v1.NodeSelector", "nodeSelectorTerms"),
        ("core.v1.NodeSelectorRequirement", "key"),
        ("core.v1.NodeSelectorRequirement", "operator"),
        ("core.v1.PodAffinityTerm", "topologyKey"),
        ("core.v1.TopologySpreadConstraint", "topologyKey"),
        ("core.v1.Toleration", "operator"),
        ("core.v1.PreferredSchedulingTerm", "preference"),
        ("core.v1.WeightedPodAffinityTerm", "podAffinityTerm"),
        ("core.v1.HostAlias", "ip"),
        ("core.v1.PodReadinessGate", "conditionType"),
        ("core.v1.PodSchedulingGate", "name"),
        ("core.v1.PodResourceClaim", "name"),
        ("core.v1.ResourceClaim", "name"),
        *_of_containers("name"),
        ("core.v1.EnvVar", "name"),
        ("core.v1.Sysctl", "name"),
        ("core.v1.ExecAction", "command"),
        ("core.v1.HTTPHeader", "name"),
        ("core.v1.SeccompProfile", "type"),
        ("core.v1.AppArmorProfile", "type"),
        ("core.v1.PodOS", "name"),
        ("core.v1.TypedLocalObjectReference", "kind"),
        ("core.v1.TypedLocalObjectReference", "name"),
        ("core.v1.TypedObjectReference", "kind"),
        ("core.v1.TypedObjectReference", "name"),
        ("core.v1.Binding", "target"),
        ("storage.v1.CSINodeSpec", "drivers"),
        ("storage.v1.CSINode", "spec"),
        ("rbac.v1.PolicyRule", "verbs"),
        ("core.v1.Event", "involvedObject"),
        ("events.v1.Event", "eventTime"),
        ("events.v1.EventSeries", "lastObservedTime"),
        ("batch.v1.PodFailurePolicy", "rules"),
        ("batch.v1.PodFailurePolicyRule", "action"),
        ("batch.v1.PodFailurePolicyOnExitCodesRequirement", "operator"),
        ("batch.v1.PodFailurePolicyOnExitCodesRequirement", "values"),
        ("batch.v1.PodFailurePolicyOnPodConditionsPattern", "type"),
        ("batch.v1.SuccessPolicy", "rules"),
        ("apps.v1.ControllerRevision", "data"),
        *_of_devices("DeviceTaint", "effect"),
        *_of_devices("DeviceTaint", "key"),
        *_of_devices("DeviceCapacity", "value"),
        *_of_devices("Counter", "value"),
        *_of_devices("CapacityRequestPolicyRange", "min"),
        *_of_devices("Device", "name"),
        *_of_devices("DeviceRequest", "name"),
        *_of_devices("DeviceSubRequest", "name"),
        *_of_devices("CELDeviceSelector", "expression"),
        *_of_devices("OpaqueDeviceConfiguration", "driver"),
        *_of_devices("OpaqueDeviceConfiguration", "parameters"),
        *_of_groups("WorkloadSpec", "podGroupTemplates"),
        *_of_groups("PodGroupSpec", "schedulingPolicy"),
        *_of_groups("PodGroupTemplate", "schedulingPolicy"),
        *_of_groups("CompositePodGroupSpec", "schedulingPolicy"),
        *_of_groups("CompositePodGroupTemplate", "schedulingPolicy"),
        *_of_groups("TopologyConstraint", "key"),
    )
)
# Parts that have rules of their own for all that is in them.
_OWN_RULES = frozenset(
    (
        ("apps.v1.StatefulSetSpec", "podManagementPolicy"),
        ("apps.v1.StatefulSetUpdateStrategy", "type"),
        ("batch.v1.JobSpec", "podReplacementPolicy"),
        ("core.v1.LimitRangeItem", "type"),
        ("core.v1.NodeSpec", "taints"),
        ("core.v1.ResourceQuotaSpec", "scopes"),
        ("core.v1.ResourceQuotaSpec", "scopeSelector"),
        ("core.v1.ServiceSpec", "internalTrafficPolicy"),
        ("core.v1.ServiceSpec", "ipFamilies"),
        ("core.v1.ServiceSpec", "trafficDistribution"),
        ("core.v1.PodSpec", "volumes"),
        ("core.v1.PodSpec", "os"),
        *_of_containers("volumeMounts"),
        *_of_containers("volumeDevices"),
        *_of_containers("env"),
        *_of_containers("envFrom"),
        *_of_containers("resizePolicy"),
        *_of_containers("restartPolicyRules"),
        ("core.v1.SecurityContext", "seccompProfile"),
        ("core.v1.SecurityContext", "appArmorProfile"),
        ("core.v1.PodSecurityContext", "seccompProfile"),
        ("core.v1.PodSecurityContext", "appArmorProfile"),
        ("core.v1.HTTPGetAction", "scheme"),
        ("core.v1.Lifecycle", "stopSignal"),
        ("core.v1.PersistentVolumeClaimSpec", "accessModes"),
        ("core.v1.PersistentVolumeClaimSpec", "volumeMode"),
        *(("core.v1.PersistentVolumeSpec", kind) for kind in VOLUME_SOURCES),
    )
)
# Here the empty text is not the same as none: it is not among the choices.
_NEVER_EMPTY = frozenset(
    (
        *_of_containers("restartPolicy"),
        ("core.v1.SecurityContext", "procMount"),
        ("core.v1.PodSecurityContext", "fsGroupChangePolicy"),
        ("core.v1.PodSecurityContext", "seLinuxChangePolicy"),
        ("core.v1.PodSecurityContext", "supplementalGroupsPolicy"),
        ("core.v1.TopologySpreadConstraint", "whenUnsatisfiable"),
        ("core.v1.TopologySpreadConstraint", "nodeAffinityPolicy"),
        ("core.v1.TopologySpreadConstraint", "nodeTaintsPolicy"),
        ("core.v1.PersistentVolumeSpec", "volumeMode"),
        ("batch.v1.JobSpec", "completionMode"),
        ("policy.v1.PodDisruptionBudgetSpec", "unhealthyPodEvictionPolicy"),
    )
)
# Choices in another order than the schema's.
_CHOICES = {
    **{
        ("apps.v1.StatefulSetPersistentVolumeClaimRetentionPolicy", field): ("Retain", "Delete")
        for field in ("whenDeleted", "whenScaled")
    },
    ("batch.v1.JobSpec", "completionMode"): ("NonIndexed", "Indexed"),
    ("core.v1.PodSpec", "preemptionPolicy"): ("PreemptLowerPriority", "Never"),
    ("scheduling.v1.PriorityClass", "preemptionPolicy"): ("PreemptLowerPriority", "Never"),
    ("core.v1.PodSecurityContext", "fsGroupChangePolicy"): ("Always", "OnRootMismatch"),
    ("core.v1.Toleration", "operator"): ("Equal", "Exists"),
}
# Groups whose validation is declared on their types, which lists choices by name.
_SORTED = ("resource.", "scheduling.v1alpha", "scheduling.v1beta")
_META_REQUIREMENT = "io.k8s.apimachinery.pkg.apis.meta.v1.LabelSelectorRequirement"
_NEVER = ("metadata",)
_API = "io.k8s.api."


@dataclass(frozen=True, slots=True)
class Demands:
    """Of one definition: fields that must be there, those that have rules of their own, and those
    whose value is one of a set that has no empty text in it."""

    required: tuple[str, ...] = ()
    own: frozenset[str] = frozenset()
    never_empty: frozenset[str] = frozenset()


_by_name: dict[str, Demands] = {}


def demands_of(schema: Schema) -> Demands:
    """Worked out once for each definition."""
    name = schema.name
    known = _by_name.get(name) if name else None
    if known is not None:
        return known
    found = _demands(schema, name.removeprefix(_API))
    if name:
        _by_name[name] = found
    return found


def _demands(schema: Schema, short: str) -> Demands:
    own = frozenset(field for definition, field in _OWN_RULES if definition == short)
    never_empty = frozenset(field for definition, field in _NEVER_EMPTY if definition == short)
    if schema.name == _META_REQUIREMENT or short.startswith("io.k8s.apiextensions"):
        return Demands()
    required = tuple(
        field
        for field in schema.required
        if field not in _NEVER
        and field not in own
        and field not in never_empty
        and (short, field) not in _MAY_BE_EMPTY
        and (child := schema.field(field)) is not None
        and child.type in _TEXTUAL
    )
    return Demands(required, own, never_empty)


def choices_of(schema: Schema, field: str, child: Schema) -> tuple[str, ...]:
    """The values of a closed set, in the order in which complaints list them."""
    short = schema.name.removeprefix(_API)
    if (short, field) in _CHOICES:
        return _CHOICES[short, field]
    listed = [choice for choice in child.enum if choice]
    return tuple(sorted(listed) if short.startswith(_SORTED) else listed)
