"""torchtune: the recipe and config that follow from a TrainJob, and what it may not ask for.

Source: Trainer ``pkg/runtime/framework/plugins/torch/torchtune.go``. The model is named by the
runtime: ``torchtune-llama3.2-1b`` trains ``llama3_2/1B``.
"""

from __future__ import annotations

from kubarium.api.resource import Document
from kubarium.api.trainer import names
from kubarium.api.trainer.template import Plan, ancestor_of, container_of, gpus, node_resources
from kubarium.base.errors import FieldError

ENTRYPOINT = ["tune", "run"]
MODELS = ("llama3_2/1B", "llama3_2/3B", "llama3_3/70B", "qwen2_5/1.5B")
_LARGE = "llama3_3/70B"
_NO_QLORA = "qwen2_5/1.5B"
_ONE_GPU_QLORA = ("llama3_2/1B", "llama3_2/3B")
# Arguments that the runtime sets and the TrainJob may not.
OF_RUNTIME = frozenset(
    ("output_dir", "tokenizer.path", "tokenizer.merges_file", "checkpointer.checkpoint_dir")
)


def is_torchtune(trainer: Document) -> bool:
    """Whether the TrainJob's command is torchtune's, to be completed."""
    return trainer.get("command") == ENTRYPOINT


def model_of(runtime: str) -> str:
    """
    >>> model_of("torchtune-llama3.2-1b")
    'llama3_2/1B'
    """
    parts = runtime.split("-")
    return f"{parts[1].replace('.', '_')}/{parts[2].upper()}" if len(parts) == 3 else ""


def complete_command(plan: Plan, processes: str) -> None:
    """Give the TrainJob's command its rendezvous, recipe, config and the runtime's paths."""
    trainer = dict(plan.trainer or {})
    gpu_count = gpus(node_resources(plan))
    command = list(ENTRYPOINT)
    several = int(processes) > 1 if processes.isdecimal() else gpu_count > 1
    if plan.nodes > 1 or several:
        command.append(f"--rdzv_endpoint={plan.first_node}:{names.PORT}")
    recipe, config = _recipe(plan.trainjob, plan.nodes, processes, gpu_count)
    command += [recipe, "--config", config, *_paths(plan)]
    trainer["command"] = command
    spec = {**plan.trainjob["spec"], "trainer": trainer}
    plan.trainjob = {**plan.trainjob, "spec": spec}


def _paths(plan: Plan) -> list[str]:
    return [
        part
        for job in plan.jobs
        if ancestor_of(job) == names.TRAINER
        for part in (container_of(job, names.NODE) or {}).get("command") or ()
        if part.partition("=")[0] in OF_RUNTIME
    ]


def _recipe(trainjob: Document, nodes: int, processes: str, gpu_count: int) -> tuple[str, str]:
    """(recipe, config) as torchtune names them."""
    args = trainjob["spec"]["trainer"].get("args") or []
    model = model_of(trainjob["spec"]["runtimeRef"]["name"])
    adapter = "qlora" if _uses_qlora(args) else "lora" if _uses_lora(args) else ""
    if nodes == 1 and (processes == "1" or gpu_count == 1):
        kind = "lora" if adapter else "full"
        return f"{kind}_finetune_single_device", f"{model}_{adapter or 'full'}_single_device"
    if nodes == 1 and adapter:
        return "lora_finetune_distributed", f"{model}_{adapter}"
    return "full_finetune_distributed", f"{model}_full" + ("_multinode" if nodes > 1 else "")


def _uses_lora(args: list[str]) -> bool:
    return any("model.lora_attn_modules" in arg for arg in args)


def _uses_qlora(args: list[str]) -> bool:
    return _is_on(args, "model.quantize_base") and not _is_on(args, "model.use_dora")


def _is_on(args: list[str], name: str) -> bool:
    pairs = [arg.partition("=") for arg in args]
    return any(name in key and value.strip().lower() == "true" for key, _, value in pairs)


def complaints(plan: Plan) -> list[FieldError]:
    """What torchtune cannot do, before it is tried."""
    trainer, runtime = plan.trainer or {}, str(plan.trainjob["spec"]["runtimeRef"]["name"])
    model, args = model_of(runtime), trainer.get("args") or []
    nodes = int(trainer.get("numNodes", 1))
    errors: list[FieldError] = []
    if model not in MODELS:
        detail = f"must have a supported pretrained model, invalid model configured: {model}"
        errors.append(FieldError("Invalid", "spec.runtimeRef.name", runtime, detail))
    if nodes > 1 and model != _LARGE:
        detail = f"must be 1 for {model} model"
        errors.append(FieldError("Invalid", "spec.trainer.numNodes", nodes, detail))
    errors += _qlora_complaints(plan, model, nodes)
    if nodes > 1 and (_uses_lora(args) or _uses_qlora(args)):
        detail = "LoRA fine-tuning is not supported for multi-node training in TorchTune"
        errors.append(FieldError("Invalid", "spec.trainer.numNodes", nodes, detail))
    for position, arg in enumerate(args):
        key = arg.partition("=")[0]
        if key in OF_RUNTIME:
            detail = (
                f'must not set immutable config "{key}" in trainer args; it is managed by the '
                "runtime"
            )
            errors.append(FieldError("Invalid", f"spec.trainer.args[{position}]", arg, detail))
    return errors


def _qlora_complaints(plan: Plan, model: str, nodes: int) -> list[FieldError]:
    trainer = plan.trainer or {}
    processes = str(trainer.get("numProcPerNode", "auto"))
    _, config = _recipe(plan.trainjob, nodes, processes, gpus(node_resources(plan)))
    if "_qlora" not in config:
        return []
    errors: list[FieldError] = []
    if model == _NO_QLORA:
        name = plan.trainjob["spec"]["runtimeRef"]["name"]
        detail = f"QLoRA is not supported for {model} model"
        errors.append(FieldError("Invalid", "spec.runtimeRef.name", name, detail))
    if "_qlora_single_device" not in config and model in _ONE_GPU_QLORA:
        detail = f"must be auto or 1 for {model} model when using QLoRA"
        errors.append(FieldError("Invalid", "spec.trainer.numProcPerNode", processes, detail))
        detail = f"must have gpu resource with value 1 for {model} model when using QLoRA"
        resources = trainer.get("resourcesPerNode")
        errors.append(FieldError("Invalid", "spec.trainer.resourcesPerNode", resources, detail))
    return errors
