"""Fetches a data set or a model before training: what Trainer's initializer images do.

    STORAGE_URI=hf://tatsu-lab/alpaca python -m kubarium.labs.initializer dataset

Environment, as those images have it: STORAGE_URI; for the Hugging Face hub also ACCESS_TOKEN and
IGNORE_PATTERNS (comma-separated). The files go to /workspace/dataset or /workspace/model. ``hf://``
needs the package huggingface_hub and a network; ``file://`` (ours) copies a folder of this machine,
for work without one.
"""

from __future__ import annotations

import fnmatch
import importlib
import os
import shutil
import sys
from pathlib import Path
from urllib.parse import urlparse

MODEL_FILES = ["*.json", "*.safetensors", "*.model", "*.txt", "*.gguf"]
NOT_OF_MODEL = ["*.msgpack", "*.h5", "*.bin", "*.pt", "*.pth"]


def ignored(step: str) -> list[str]:
    """Patterns of files to leave out."""
    given = [item.strip() for item in os.environ.get("IGNORE_PATTERNS", "").split(",")]
    return [item for item in given if item] or (NOT_OF_MODEL if step == "model" else [])


def copy_folder(source: Path, target: Path, step: str) -> int:
    """Copy what is not ignored; how many files."""
    if not source.is_dir():
        raise SystemExit(f"STORAGE_URI: {source} is no folder that this pod can see")
    count = 0
    for path in sorted(source.rglob("*")):
        name = path.relative_to(source)
        if path.is_file() and not any(fnmatch.fnmatch(str(name), p) for p in ignored(step)):
            (target / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, target / name)
            count += 1
    return count


def download(repository: str, target: Path, step: str) -> None:
    """A snapshot of a repository of the hub."""
    try:
        hub = importlib.import_module("huggingface_hub")
    except ImportError:
        raise SystemExit(
            f"hf:// needs the package huggingface_hub, which {sys.executable} does not have: "
            "pip install huggingface_hub"
        ) from None
    options = {"repo_type": "dataset"} if step == "dataset" else {"allow_patterns": MODEL_FILES}
    hub.snapshot_download(
        repo_id=repository,
        local_dir=str(target),
        ignore_patterns=ignored(step) or None,
        token=os.environ.get("ACCESS_TOKEN") or None,
        **options,
    )


def main() -> None:
    step = sys.argv[1]
    address = os.environ.get("STORAGE_URI", "")
    if not address:
        raise SystemExit("STORAGE_URI environment variable must be set")
    uri = urlparse(address)
    target = Path("/workspace") / step
    target.mkdir(parents=True, exist_ok=True)
    print(f"Downloading {step}: {address}", flush=True)
    if uri.scheme == "hf":
        parts = [uri.netloc, *(part for part in uri.path.split("/") if part)]
        download("/".join(parts[:2]), target, step)
    elif uri.scheme == "file":
        print(f"{copy_folder(Path(uri.path), target, step)} files")
    else:
        raise SystemExit(
            f"STORAGE_URI: unsupported scheme {uri.scheme!r}: here hf:// and file:// are known"
        )
    print(f"{step.capitalize()} has been downloaded", flush=True)


if __name__ == "__main__":
    main()
