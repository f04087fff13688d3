"""A state (names to arrays, tensors, numbers) to bytes and back: NumPy's npz or torch's pt.

Which of the two is decided by the state: torch if any value is a tensor. Copies are taken before a
save goes on in the background, so that training may change its arrays in place.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from typing import IO, Any

State = Mapping[str, Any]


def is_torch(state: State) -> bool:
    """Whether a value is a torch tensor (without importing torch for states that have none)."""
    torch = sys.modules.get("torch")
    return torch is not None and any(_has_tensor(torch, value) for value in state.values())


def _has_tensor(torch: Any, value: Any) -> bool:
    if isinstance(value, torch.Tensor):
        return True
    if isinstance(value, Mapping):
        return any(_has_tensor(torch, inner) for inner in value.values())
    return isinstance(value, (list, tuple)) and any(_has_tensor(torch, inner) for inner in value)


def suffix(state: State) -> str:
    return ".pt" if is_torch(state) else ".npz"


def copied(state: State) -> dict[str, Any]:
    """A state that later changes in place do not reach."""
    if is_torch(state):
        return {name: _copied_tensors(value) for name, value in state.items()}
    import numpy  # noqa: PLC0415 (only states that hold arrays pay for it)

    return {name: numpy.array(value, copy=True) for name, value in state.items()}


def _copied_tensors(value: Any) -> Any:
    torch = sys.modules["torch"]
    if isinstance(value, torch.Tensor):
        return value.detach().to("cpu", copy=True)
    if isinstance(value, Mapping):
        return {name: _copied_tensors(inner) for name, inner in value.items()}
    if isinstance(value, (list, tuple)):
        return type(value)(_copied_tensors(inner) for inner in value)
    return value


def write(state: State, file: IO[bytes]) -> None:
    """Raises TypeError for a value that neither format can hold without code in the file."""
    if is_torch(state):
        sys.modules["torch"].save(dict(state), file)
        return
    import numpy  # noqa: PLC0415

    arrays = {name: numpy.asarray(value) for name, value in state.items()}
    for name, array in arrays.items():
        if array.dtype.hasobject:
            kind = type(state[name]).__name__
            raise TypeError(f"state {name!r}: a {kind} is neither an array, a tensor nor a number")
    numpy.savez(file, **arrays)  # type: ignore[arg-type]


def read(name: str, file: IO[bytes]) -> dict[str, Any]:
    """Only data is read: a file cannot bring code with it."""
    if name.endswith(".pt"):
        import torch  # noqa: PLC0415

        found: dict[str, Any] = torch.load(file, map_location="cpu", weights_only=True)
        return found
    import numpy  # noqa: PLC0415

    with numpy.load(file, allow_pickle=False) as saved:
        return {key: saved[key] for key in saved.files}
