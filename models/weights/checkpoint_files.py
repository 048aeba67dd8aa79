"""Read the weights in a file: safetensors, or what `torch.save` wrote, never plainly unpickled."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final, NamedTuple

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from gopstream.models.weights.pickle_guard import SavedNamespace, load_saved

STATE_PLACES: Final = ("state_dict", "model", "model_state", "module")
"""Where training code puts the state dict, in the order in which they are tried."""
PICKLE_SUFFIXES: Final = (".pth", ".pt", ".bin", ".pyth", ".ckpt", ".tar")

_PREFIXES: Final = ("module.", "_orig_mod.")
"""Of models wrapped by DistributedDataParallel and by ``torch.compile``."""
_MAX_FACT_NODES: Final = 100_000
_MAX_FACT_DEPTH: Final = 20


class Checkpoint(NamedTuple):
    """What is in a file of weights."""

    state: dict[str, Tensor]
    """Tensors on the CPU by key, without prefixes that wrappers add ("module.")."""
    found_under: str
    """The entry that held them, such as "state_dict"; "" where the file is nothing else."""
    facts: dict[str, Any]
    """The other entries as plain data (epoch, settings); those that hold tensors are left out."""


def read_checkpoint(path: Path | str, *, max_bytes: int = 16 * 2**30) -> Checkpoint:
    """Read a file of weights; nothing that it may ask to run is run.

    Args:
        path: ``.safetensors``, or one of `PICKLE_SUFFIXES` as ``torch.save`` wrote it.
        max_bytes: The largest file, in bytes, that is opened.

    Returns:
        The state dict, where it was found, and what else was in the file.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If the file is too large, broken, of another kind, without a state dict, or
            its pickle asks for anything but tensors and plain settings.
    """
    path = Path(path).expanduser()
    if path.is_dir():
        raise ValueError(f"{path} is a folder; give a file of weights in it")
    size = path.stat().st_size
    if size == 0:
        raise ValueError(f"{path} is empty")
    if size > max_bytes:
        raise ValueError(f"{path} has {size} bytes; max_bytes allows {max_bytes}")
    if path.suffix == ".safetensors":
        return _read_safetensors(path)
    if path.suffix not in PICKLE_SUFFIXES:
        raise ValueError(
            f"{path} ends in {path.suffix!r}; weights are read from .safetensors, "
            f"{', '.join(PICKLE_SUFFIXES)}"
        )
    saved = load_saved(path)
    found_under, state = _find_state(path, saved)
    facts = _facts_beside(saved, found_under) if found_under else {}
    return Checkpoint(_checked_state(path, state), found_under, facts)


def _read_safetensors(path: Path) -> Checkpoint:
    try:
        with safe_open(path, framework="pt", device="cpu") as file:
            state = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118  no iterator
            facts = dict(file.metadata() or {})
    except SafetensorError as error:
        raise ValueError(f"{path} is not a safetensors file that can be read: {error}") from error
    return Checkpoint(_checked_state(path, state), "", facts)


def _find_state(path: Path, saved: object) -> tuple[str, dict[object, object]]:
    """Return the entry that holds the state dict ("" for the whole) and what is in it."""
    if not isinstance(saved, dict):
        raise ValueError(f"{path} holds a {type(saved).__name__}, not a mapping with weights")
    # dict's own methods: the file may have put an attribute of the same name on the object.
    entries = dict(dict.items(saved))
    for place in STATE_PLACES:
        found = entries.get(place)
        if isinstance(found, dict) and any(isinstance(v, Tensor) for v in dict.values(found)):
            return place, dict(dict.items(found))
    if any(isinstance(value, Tensor) for value in entries.values()):
        return "", entries
    raise ValueError(
        f"{path} has no state dict under {', '.join(STATE_PLACES)} and is none itself; "
        f"its entries: {sorted(map(str, entries))[:20]}"
    )


def _checked_state(path: Path, state: Mapping[Any, object]) -> dict[str, Tensor]:
    """Return the tensors without their prefix.

    Raises:
        ValueError: If a key is no plain text, or a value no dense tensor with values of its own.
    """
    if not state:
        raise ValueError(f"{path} has no tensors")
    for key, value in state.items():
        if not isinstance(key, str) or not key.isprintable():
            raise ValueError(f"{path}: the state dict has the key {key!a}, which is no plain text")
        if type(value) not in (Tensor, nn.Parameter):
            raise ValueError(f"{path}: {key} is a {type(value).__name__}, not a tensor")
        assert isinstance(value, Tensor)
        if value.layout != torch.strided or value.device.type != "cpu" or value.is_quantized:
            raise ValueError(f"{path}: {key} is not a dense tensor with values")
        # A few bytes can claim to be a tensor of any size, by a stride of 0.
        if value.numel() * value.element_size() > value.untyped_storage().nbytes():
            raise ValueError(f"{path}: {key} claims shape {tuple(value.shape)} without the values")
    prefix = _shared_prefix([str(key) for key in state])
    return {
        str(key).removeprefix(prefix): value.detach()
        for key, value in state.items()
        if isinstance(value, Tensor)
    }


def _shared_prefix(keys: Sequence[str]) -> str:
    """Return what wrappers have put before every key; a compiled model may be wrapped again."""
    shared, found = "", True
    while found:
        tried = (shared + prefix for prefix in _PREFIXES)
        longer = next((one for one in tried if all(key.startswith(one) for key in keys)), None)
        found, shared = longer is not None, longer or shared
    return shared


class _TensorWithinError(Exception):
    """A fact turned out to hold weights."""


class _TooLargeError(Exception):
    """A fact turned out to be larger or deeper than settings are."""


def _facts_beside(saved: dict[Any, object], found_under: str) -> dict[str, Any]:
    """Return the entries beside the state dict as plain data, without those with tensors."""
    facts = {}
    for key, value in dict.items(saved):
        if isinstance(key, str) and key != found_under:
            try:
                facts[key] = _FactReader().plain(value, depth=0)
            except _TensorWithinError:
                continue
            except _TooLargeError:
                facts[key] = "<left out: too large or too deep>"
    return facts


class _FactReader:
    """Copies what a file says into plain data, within a budget.

    A short pickle can describe lists in lists that unfold to any size, or that hold themselves.
    """

    def __init__(self) -> None:
        self.nodes_left = _MAX_FACT_NODES

    def plain(self, value: object, *, depth: int) -> Any:  # noqa: ANN401  plain data of any kind
        """Copy `value`; what is no plain data becomes its type's name in angle brackets."""
        self.nodes_left -= 1
        if self.nodes_left < 0 or depth > _MAX_FACT_DEPTH:
            raise _TooLargeError
        if value is None or type(value) in (bool, int, float, str):
            return value
        if isinstance(value, Tensor):
            if value.dim() == 0 and type(value) is Tensor and value.device.type == "cpu":
                return value.item()
            raise _TensorWithinError
        if isinstance(value, SavedNamespace):
            return self.plain(value.attributes, depth=depth + 1)
        if isinstance(value, dict):
            return {
                str(self.plain(key, depth=depth + 1)): self.plain(item, depth=depth + 1)
                for key, item in dict.items(value)
            }
        if isinstance(value, (list, tuple, set)):
            return [self.plain(item, depth=depth + 1) for item in value]
        return f"<{type(value).__name__}>"
