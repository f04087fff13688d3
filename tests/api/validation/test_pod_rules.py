"""One pod for each rule: what is put into a good pod, and all that is said about it."""

import pytest

from kubarium.api.catalog import Catalog
from kubarium.api.decode import conform
from kubarium.api.defaulting import default
from kubarium.api.manifests import decode_yaml
from kubarium.api.schema import definition
from kubarium.api.validation import validate_create, validate_update
from kubarium.api.validation.volumes import _ORDER

PODS = Catalog.builtin().lookup("", "v1", "pods")


def pod(text: str = "{}", metadata: dict | None = None) -> dict:
    """A pod of one container ``c``; ``text`` is YAML of its spec, with ``c`` for that container."""
    spec = decode_yaml(text)[0]
    container = {"name": "c", "image": "x:1", **spec.pop("c", {})}
    document = {
        "metadata": {"name": "p", "namespace": "default", **(metadata or {})},
        "spec": {"serviceAccountName": "default", "containers": [container], **spec},
    }
    assert conform(PODS, document) == []
    default(PODS, document)
    return document


def complaints(text: str, metadata: dict | None = None) -> list[str]:
    return [str(error) for error in validate_create(PODS, pod(text, metadata))]


C = "spec.containers[0]"
V = "spec.volumes[0]"


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("{c: {name: ''}}", [f"{C}.name: Required value"]),
        (
            "{c: {ports: [{containerPort: 80, hostPort: 1}, {containerPort: 81, hostPort: 1}]}}",
            [f'{C}.ports[1].hostPort: Duplicate value: "TCP//1"'],
        ),
        (
            "{hostNetwork: true, c: {ports: [{containerPort: 80, hostPort: 81}]}}",
            [
                f"{C}.ports[0].hostPort: Invalid value: 81: "
                "must match `containerPort` when `hostNetwork` is true"
            ],
        ),
        (
            "{c: {env: [{name: A, valueFrom: {fieldRef: {fieldPath: metadata.labels}}}]}}",
            [
                f"{C}.env[0].valueFrom.fieldRef.fieldPath: Unsupported value: "
                '"metadata.labels": supported values: "metadata.name", "metadata.namespace", '
                '"metadata.uid", "spec.nodeName", "spec.serviceAccountName", "status.hostIP", '
                '"status.hostIPs", "status.podIP", "status.podIPs"'
            ],
        ),
        (
            "{c: {env: [{name: A, valueFrom: {fieldRef: {apiVersion: v2, fieldPath: x}}}]}}",
            [
                f'{C}.env[0].valueFrom.fieldRef.fieldPath: Invalid value: "x": '
                "error converting fieldPath: unsupported pod version: v2"
            ],
        ),
        (
            "{c: {env: [{name: A, valueFrom: {resourceFieldRef: "
            "{resource: limits.cpu, divisor: 2m}}}]}}",
            [
                f'{C}.env[0].valueFrom.resourceFieldRef.divisor: Invalid value: "limits.cpu": '
                "only divisor's values 1m and 1 are supported with the cpu resource"
            ],
        ),
        (
            "{c: {env: [{name: A, valueFrom: {fileKeyRef: {key: k, volumeName: v, path: p}}}]}}",
            [f'{C}.env[0].valueFrom.fileKeyRef.volumeName: Not found: "v"'],
        ),
        (
            "{c: {envFrom: [{}]}}",
            [f'{C}.envFrom: Invalid value: "": must specify one of: `configMapRef` or `secretRef`'],
        ),
        (
            "{c: {lifecycle: {preStop: {sleep: {seconds: 31}}}}}",
            [
                f"{C}.lifecycle.preStop.sleep: Invalid value: 31: "
                "must be non-negative and less than terminationGracePeriodSeconds (30)"
            ],
        ),
        (
            "{c: {lifecycle: {stopSignal: SIGTERM}}}",
            [
                f"{C}.lifecycle.stopSignal: Forbidden: "
                "may not be set for containers with empty `spec.os.name`"
            ],
        ),
        (
            "{os: {name: windows}, c: {lifecycle: {stopSignal: SIGHUP}}}",
            [
                f'{C}.lifecycle.stopSignal: Unsupported value: "SIGHUP": '
                'supported values: "SIGKILL", "SIGTERM"'
            ],
        ),
        (
            "{c: {readinessProbe: {exec: {command: [x]}, terminationGracePeriodSeconds: 5}}}",
            [
                f"{C}.readinessProbe.terminationGracePeriodSeconds: Invalid value: 5: "
                "must not be set for readinessProbes"
            ],
        ),
        (
            "{c: {startupProbe: {tcpSocket: {port: '80'}}}}",
            [
                f'{C}.startupProbe.tcpSocket.port: Invalid value: "80": '
                "must contain at least one letter (a-z)"
            ],
        ),
        (
            "{restartPolicy: Never, c: {resizePolicy: "
            "[{resourceName: cpu, restartPolicy: RestartContainer}]}}",
            [
                f'{C}.resizePolicy: Invalid value: "RestartContainer": '
                "must be 'NotRequired' when pod `restartPolicy` is 'Never'"
            ],
        ),
        (
            "{c: {resources: {limits: {foo: 1}}}}",
            [
                f'{C}.resources.{part}[foo]: Invalid value: "foo": {why}'
                for part in ("limits", "requests")
                for why in (
                    "must be a standard resource type or fully qualified",
                    "must be a standard resource for containers",
                )
            ],
        ),
        (
            "{c: {resources: {limits: {cpu: 1, hugepages-2Mi: 3Mi}}}}",
            [
                f'{C}.resources.{part}[hugepages-2Mi]: Invalid value: "3Mi": '
                "3Mi is not positive integer multiple of hugepages-2Mi"
                for part in ("limits", "requests")
            ],
        ),
        (
            "{c: {resources: {limits: {hugepages-2Mi: 4Mi}}}}",
            [f"{C}.resources: Forbidden: HugePages require cpu or memory"],
        ),
        (
            "{resourceClaims: [{name: a, resourceClaimName: x}], "
            "c: {resources: {claims: [{name: a}, {name: a, request: r}]}}}",
            [f'{C}.resources.claims[1]: Duplicate value: "a"'],
        ),
        (
            "{resources: {requests: {cpu: 1}, claims: []}}",
            ["spec.resources.claims: Forbidden: claims may not be set for Resources at pod-level"],
        ),
        (
            "{initContainers: [{name: i, image: x, readinessProbe: {exec: {command: [x]}}}]}",
            [
                "spec.initContainers[0].readinessProbe: Forbidden: "
                "may not be set for init containers without restartPolicy=Always"
            ],
        ),
    ],
)
def test_containers(text, found):
    assert complaints(text) == found


@pytest.mark.parametrize(
    ("text", "found"),
    [
        (
            "{volumes: [{name: v, emptyDir: {}}], c: {volumeMounts: "
            "[{name: v, mountPath: /a, mountPropagation: Bidirectional}]}}",
            [
                f"{C}.volumeMounts.mountPropagation: Forbidden: "
                "Bidirectional mount propagation is available only to privileged containers"
            ],
        ),
        (
            "{volumes: [{name: v, emptyDir: {}}], c: {volumeMounts: "
            "[{name: v, mountPath: /a, recursiveReadOnly: Enabled}]}}",
            [
                f"{C}.volumeMounts.recursiveReadOnly: Forbidden: "
                "may only be specified when readOnly is true"
            ],
        ),
        (
            "{volumes: [{name: v, emptyDir: {}}], "
            "c: {volumeDevices: [{name: v, devicePath: /dev/x}]}}",
            [
                f'{C}.volumeDevices[0].name: Invalid value: "v": can only use volume source type '
                "of PersistentVolumeClaim or Ephemeral for block mode"
            ],
        ),
        (
            "{volumes: [{name: v, persistentVolumeClaim: {claimName: x}}], c: {"
            "volumeMounts: [{name: v, mountPath: /a}], "
            "volumeDevices: [{name: v, devicePath: /b}]}}",
            [
                f'{C}.volumeMounts[0].name: Invalid value: "v": '
                "must not already exist in volumeDevices",
                f'{C}.volumeDevices[0].name: Invalid value: "v": '
                "must not already exist in volumeMounts",
            ],
        ),
        (
            "{volumes: [{name: V, emptyDir: {}}], c: {volumeMounts: [{name: V, mountPath: /a}]}}",
            [
                f'{V}.name: Invalid value: "V": a lowercase RFC 1123 label must consist of lower '
                "case alphanumeric characters or '-', and must start and end with an alphanumeric "
                "character (e.g. 'my-name',  or '123-abc', regex used for validation is "
                "'[a-z0-9]([-a-z0-9]*[a-z0-9])?')",
                f'{C}.volumeMounts[0].name: Not found: "V"',  # nothing bad can be mounted
            ],
        ),
    ],
)
def test_mounts(text, found):
    assert complaints(text) == found


@pytest.mark.parametrize(
    ("source", "found"),
    [
        ("nfs: {server: s, path: a}", '.nfs.path: Invalid value: "a": must be an absolute path'),
        (
            "hostPath: {path: /a/../b}",
            ".hostPath.path: Invalid value: \"/a/../b\": must not contain '..'",
        ),
        (
            "hostPath: {path: /a, type: Dir}",
            '.hostPath.type: Unsupported value: "Dir": supported values: "", "BlockDevice", '
            '"CharDevice", "Directory", "DirectoryOrCreate", "File", "FileOrCreate", "Socket"',
        ),
        ("persistentVolumeClaim: {}", ".persistentVolumeClaim.claimName: Required value"),
        ("secret: {secretName: s, items: [{path: a}]}", ".secret.items[0].key: Required value"),
        (
            "configMap: {name: s, items: [{key: a, path: ..b}]}",
            ".configMap.items[0].path: Invalid value: \"..b\": must not start with '..'",
        ),
        ("image: {pullPolicy: Always}", ".image.reference: Required value"),
        (
            "csi: {driver: d, nodePublishSecretRef: {}}",
            ".csi.nodePublishSecretRef.name: Required value",
        ),
        ("rbd: {image: i, monitors: []}", ".rbd.monitors: Required value"),
        ("cephfs: {monitors: []}", ".cephfs.monitors: Required value"),
        (
            "iscsi: {targetPortal: p, iqn: x, lun: 0}",
            '.iscsi.iqn: Invalid value: "x": must be valid format starting with iqn, eui, or naa',
        ),
        (
            "iscsi: {targetPortal: p, iqn: 'iqn.2001-04.com.example:a', lun: 256}",
            ".iscsi.lun: Invalid value: 256: must be between 0 and 255, inclusive",
        ),
        (
            "fc: {targetWWNs: [a]}",
            ".fc.lun: Required value: lun is required if targetWWNs is specified",
        ),
        (
            "gcePersistentDisk: {pdName: a, partition: 256}",
            ".persistentDisk.partition: Invalid value: 256: must be between 1 and 255, inclusive",
        ),
        ("flocker: {}", ".flocker: Required value: one of datasetName and datasetUUID is required"),
        (
            "azureDisk: {diskName: d, diskURI: x}",
            '.azureDisk.diskURI: Unsupported value: "x": supported values: '
            '"https://{account-name}.blob.core.windows.net/{container-name}/{disk-name}.vhd"',
        ),
        (
            "flexVolume: {driver: a/b, options: {a.k8s.io/x: y}}",
            '.flexVolume.options[a.k8s.io/x]: Invalid value: "a.k8s.io/x": '
            "kubernetes.io and k8s.io namespaces are reserved",
        ),
        (
            "quobyte: {registry: a, volume: v}",
            '.quobyte.registry: Invalid value: "a": '
            "must be a host:port pair or multiple pairs separated by commas",
        ),
        (
            "emptyDir: {}, hostPath: {path: /a}",
            ".hostPath: Forbidden: may not specify more than 1 volume type",
        ),
        (
            "ephemeral: {volumeClaimTemplate: {spec: "
            "{accessModes: [ReadWriteOnce], resources: {requests: {storage: 0}}}}}",
            ".ephemeral.volumeClaimTemplate.spec.resources[storage]: Invalid value: "
            '"0": must be greater than zero',
        ),
        (
            "ephemeral: {volumeClaimTemplate: {metadata: {name: n}, spec: "
            "{accessModes: [ReadWriteOnce], resources: {requests: {storage: 1}}}}}",
            ".ephemeral.volumeClaimTemplate.metadata.name: Forbidden: cannot be set",
        ),
        (
            "downwardAPI: {items: [{path: p}]}",
            ".downwardAPI: Required value: one of fieldRef and resourceFieldRef is required",
        ),
        (
            "downwardAPI: {items: [{path: p, resourceFieldRef: {resource: limits.cpu}}]}",
            ".downwardAPI.resourceFieldRef.containerName: Required value",
        ),
        (
            "projected: {sources: [{secret: {name: a, items: [{key: k, path: p}]}}, "
            "{configMap: {name: b, items: [{key: k, path: p}]}}]}",
            '.projected: Invalid value: "b": conflicting duplicate paths',
        ),
        (
            "projected: {sources: [{secret: {name: a}, configMap: {name: a}}]}",
            ".projected.sources[0]: Forbidden: may not specify more than 1 volume type per source",
        ),
        ("projected: {sources: [{serviceAccountToken: {}}]}", ".projected.path: Required value"),
        (
            "projected: {sources: [{clusterTrustBundle: {path: a}}]}",
            ".projected.sources[0].clusterTrustBundle: Required value: "
            "either name or signerName must be specified",
        ),
        (
            "projected: {sources: [{podCertificate: "
            "{signerName: a/b, keyType: ED25519, keyPath: k}}]}",
            '.projected.sources[0].podCertificate.signerName: Invalid value: "a": '
            "should be a domain with at least two segments separated by dots",
        ),
        (
            "projected: {sources: [{podCertificate: {signerName: a.b/c, keyType: ED25519, "
            "keyPath: k, maxExpirationSeconds: 3599}}]}",
            ".projected.sources[0].podCertificate.maxExpirationSeconds: Invalid value: 3599: "
            "if provided, maxExpirationSeconds must be >= 3600",
        ),
    ],
)
def test_volumes(source, found):
    assert complaints(f"{{volumes: [{{name: v, {source}}}]}}") == [f"{V}{found}"]


def test_every_kind_of_volume_has_a_place_in_the_order():
    names = definition("io.k8s.api.core.v1.Volume").field_names
    assert {*_ORDER} == {*names} - {"name"}


@pytest.mark.parametrize(
    ("text", "found"),
    [
        (
            "{securityContext: {sysctls: [{name: 'a b', value: '1'}]}}",
            [
                'spec.securityContext.sysctls[0].name: Invalid value: "a b": must have at most 253 '
                r"characters and match regex ^([a-z0-9]([-_a-z0-9]*[a-z0-9])?[\./])*"
                "[a-z0-9]([-_a-z0-9]*[a-z0-9])?$"
            ],
        ),
        (
            "{hostNetwork: true, securityContext: {sysctls: [{name: net.a, value: '1'}]}}",
            [
                'spec.securityContext.sysctls[0].name: Invalid value: "net.a": '
                "may not be specified when 'hostNetwork' is true"
            ],
        ),
        (
            "{securityContext: {seccompProfile: {type: Localhost}}}",
            [
                "spec.securityContext.seccompProfile.localhostProfile: Required value: "
                "must be set when seccomp type is Localhost"
            ],
        ),
        (
            "{c: {securityContext: {appArmorProfile: {type: Unconfined, localhostProfile: a}}}}",
            [
                f'{C}.securityContext.appArmorProfile.localhostProfile: Invalid value: "a": '
                "can only be set when AppArmor type is Localhost"
            ],
        ),
        (
            "{c: {securityContext: {procMount: Unmasked}}}",
            [
                f'{C}.securityContext.procMount: Invalid value: "Unmasked": '
                "`hostUsers` must be false to use `Unmasked`"
            ],
        ),
        (
            "{hostUsers: false, hostNetwork: true, hostPID: true}",
            [
                "spec.hostNetwork: Forbidden: when `hostUsers` is false",
                "spec.HostPID: Forbidden: when `hostUsers` is false",
            ],
        ),
        (
            "{os: {name: linux}, securityContext: {windowsOptions: {}}}",
            [
                "spec.securityContext.windowsOptions: Forbidden: "
                "windows options cannot be set for a linux pod"
            ],
        ),
        (
            "{os: {name: windows}, securityContext: {fsGroup: 1}, "
            "c: {securityContext: {privileged: false}}}",
            [
                "spec.securityContext.fsGroup: Forbidden: cannot be set for a windows pod",
                f"{C}.securityContext.privileged: Forbidden: cannot be set for a windows pod",
            ],
        ),
        (
            "{os: {name: dos}}",
            ['spec.os: Unsupported value: "dos": supported values: "linux", "windows"'],
        ),
        (
            "{securityContext: {windowsOptions: {hostProcess: true}}}",
            [
                "spec.hostNetwork: Invalid value: false: "
                "hostNetwork must be true if pod contains any hostProcess containers"
            ],
        ),
        (
            "{securityContext: {windowsOptions: {runAsUserName: 'a/b'}}}",
            [
                'spec.securityContext.windowsOptions.runAsUserName: Invalid value: "a/b": '
                "runAsUserName's User cannot contain the following characters: "
                '"/\\:;|=,+*?<>@[]'
            ],
        ),
    ],
)
def test_security(text, found):
    assert complaints(text) == found


@pytest.mark.parametrize(
    ("text", "found"),
    [
        (
            "{dnsConfig: {nameservers: [010.1.2.3]}}",
            ['spec.dnsConfig.nameservers[0]: Invalid value: "010.1.2.3": must not have leading 0s'],
        ),
        (
            "{dnsConfig: {options: [{value: x}]}}",
            ["spec.dnsConfig.options[0]: Required value: must not be empty"],
        ),
        ("{dnsConfig: {searches: [., a_b., _c]}}", []),
        (
            "{hostAliases: [{ip: '::ffff:1.2.3.4'}]}",
            [
                'spec.hostAliases[0].ip: Invalid value: "::ffff:1.2.3.4": '
                "must not be an IPv4-mapped IPv6 address"
            ],
        ),
        (
            "{hostnameOverride: a, hostNetwork: true}",
            ["spec.hostnameOverride: Forbidden: may not be specified when hostNetwork is true"],
        ),
        (
            f"{{hostnameOverride: {'a' * 65}}}",
            ["spec.hostnameOverride: Too long: may not be more than 64 bytes"],
        ),
        (
            "{schedulingGroup: {}}",
            [
                "spec.schedulingGroup.podGroupName: Invalid value: null: "
                "must specify one of: `podGroupName`"
            ],
        ),
        (
            "{resourceClaims: [{name: a, resourceClaimName: ''}]}",
            [
                'spec.resourceClaims[0].resourceClaimName: Invalid value: "": a lowercase RFC 1123 '
                "subdomain must consist of lower case alphanumeric characters, '-' or '.', and "
                "must start and end with an alphanumeric character (e.g. 'example.com', regex used "
                "for validation is "
                "'[a-z0-9]([-a-z0-9]*[a-z0-9])?(\\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*')"
            ],
        ),
        (
            "{topologySpreadConstraints: [{maxSkew: 1, topologyKey: z, whenUnsatisfiable: "
            "DoNotSchedule, matchLabelKeys: [a]}]}",
            [
                "spec.topologySpreadConstraints[0].matchLabelKeys: Forbidden: "
                "must not be specified when labelSelector is not set"
            ],
        ),
        (
            "{affinity: {podAffinity: {requiredDuringSchedulingIgnoredDuringExecution: "
            "[{topologyKey: z, labelSelector: {}, matchLabelKeys: [a], mismatchLabelKeys: [a]}]}}}",
            [
                "spec.affinity.podAffinity.requiredDuringSchedulingIgnoredDuringExecution[0]"
                '.matchLabelKeys[0]: Invalid value: "a": '
                "exists in both matchLabelKeys and mismatchLabelKeys"
            ],
        ),
        (
            "{affinity: {nodeAffinity: {requiredDuringSchedulingIgnoredDuringExecution: "
            "{nodeSelectorTerms: [{matchFields: "
            "[{key: metadata.name, operator: In, values: [-]}]}]}}}}",
            [
                "spec.affinity.nodeAffinity.requiredDuringSchedulingIgnoredDuringExecution"
                '.nodeSelectorTerms[0].matchFields[0].values[0]: Invalid value: "-": a lowercase '
                "RFC 1123 subdomain must consist of lower case alphanumeric characters, '-' or "
                "'.', and must start and end with an alphanumeric character (e.g. 'example.com', "
                "regex used for validation is "
                "'[a-z0-9]([-a-z0-9]*[a-z0-9])?(\\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*')"
            ],
        ),
        ("{terminationGracePeriodSeconds: -1}", []),
        (
            "{serviceAccountName: '', volumes: [{name: v, projected: {sources: "
            "[{serviceAccountToken: {path: t}}]}}]}",
            [
                f"{V}.projected.sources[0].serviceAccountToken: Forbidden: "
                "must not be specified when serviceAccountName is not set"
            ],
        ),
    ],
)
def test_the_rest_of_the_spec(text, found):
    assert complaints(text) == found


@pytest.mark.parametrize(
    ("text", "annotations", "found"),
    [
        (
            "{}",
            {"controller.kubernetes.io/pod-deletion-cost": "+1"},
            "metadata.annotations[controller.kubernetes.io/pod-deletion-cost]: "
            'Invalid value: "+1": must be a 32bit integer',
        ),
        (
            "{}",
            {"kubernetes.io/config.mirror": "x"},
            'metadata.annotations[kubernetes.io/config.mirror]: Invalid value: "x": '
            "must set spec.nodeName if mirror pod annotation is set",
        ),
    ],
)
def test_annotations_that_mean_something(text, annotations, found):
    assert complaints(text, {"annotations": annotations}) == [found]


def test_a_valid_spec_is_still_looked_at_with_the_name_of_its_pod():
    claim = "spec: {accessModes: [ReadWriteOnce], resources: {requests: {storage: 1}}}"
    text = (
        f"{{volumes: [{{name: v, ephemeral: {{volumeClaimTemplate: {{{claim}}}}}}}, "
        "{name: w, persistentVolumeClaim: {claimName: p-v}}]}"
    )
    known = validate_create(PODS, pod(text), spec_is_valid=True)
    assert [str(error) for error in known] == [
        'spec.volumes[1].persistentVolumeClaim.claimName: Invalid value: "p-v": '
        "must not reference a PVC that gets created for an ephemeral volume"
    ]
    assert validate_create(PODS, pod(text, {"name": "q"}), spec_is_valid=True) == []


def changes(before: str, after: str) -> list[str]:
    return [str(error) for error in validate_update(PODS, pod(after), pod(before))]


GATED = "schedulingGates: [{name: a}]"
TERMS = (
    "affinity: {{nodeAffinity: {{requiredDuringSchedulingIgnoredDuringExecution: "
    "{{nodeSelectorTerms: [{{matchExpressions: [{}]}}]}}}}}}"
)
ONE, OTHER = "{key: a, operator: Exists}", "{key: b, operator: Exists}"


def test_node_affinity_of_a_gated_pod_keeps_how_it_began():
    old = TERMS.format(ONE)
    assert changes(f"{{{GATED}, {old}}}", f"{{{GATED}, {TERMS.format(f'{ONE}, {OTHER}')}}}") == []
    found = changes(f"{{{GATED}, {old}}}", f"{{{GATED}, {TERMS.format(f'{OTHER}, {ONE}')}}}")
    assert len(found) == 1
    assert found[0].endswith("only additions are allowed (no mutations or deletions)")
    anything = (
        "affinity: {nodeAffinity: {preferredDuringSchedulingIgnoredDuringExecution: "
        "[{weight: 1, preference: {matchExpressions: [{key: a, operator: Exists}]}}]}}"
    )
    assert changes(f"{{{GATED}}}", f"{{{GATED}, {anything}}}") == []


def test_empty_is_absent_but_for_fields_that_say_something_by_being_there():
    assert changes("{}", "{c: {env: [], stdin: false}, hostAliases: []}") == []
    assert changes("{}", "{hostUsers: false}") != []
    assert changes("{}", "{dnsConfig: {}}") != []


def test_annotations_of_apparmor_stay():
    key = "container.apparmor.security.beta.kubernetes.io/c"
    old, new = pod(), pod("{}", {"annotations": {key: "unconfined"}})
    found = [str(error) for error in validate_update(PODS, new, old)]
    assert found == [f"metadata.annotations[{key}]: Forbidden: may not add AppArmor annotations"]
