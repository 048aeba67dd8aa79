"""Put weights of other code into a model: every key is accounted for, or nothing is loaded."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, NamedTuple

import torch
from torch import Tensor, nn

from gopstream.models.weights.checkpoint_files import read_checkpoint
from gopstream.models.weights.source_layout import SourceLayout, Split, recognise_layout

OWN_LAYOUT: Final = SourceLayout(name="gopstream", marks=(), renames=((r"(.*)", r"\1"),))
"""A state dict of the same model, made here, perhaps for other classes, sizes or lengths."""

_NOT_THERE: Final = "the weights do not have it"
_MAX_LISTED: Final = 12


@dataclass(frozen=True, slots=True)
class LoadReport:
    """Where each weight went, and why. Each key of the model is loaded or left random."""

    layout: str
    """The name of the layout that was recognised."""
    loaded: dict[str, str] = field(default_factory=dict)
    """Our key -> the source key that it came from."""
    inflated: dict[str, str] = field(default_factory=dict)
    """Those of `loaded` that were inflated -> how."""
    resized: dict[str, str] = field(default_factory=dict)
    """Those of `loaded` that were resized -> how."""
    left_random: dict[str, str] = field(default_factory=dict)
    """Our key -> why it keeps the values that it had."""
    unused: dict[str, str] = field(default_factory=dict)
    """Source key -> why it was not needed."""
    cautions: list[str] = field(default_factory=list)
    """What the model does with the weights that the one they were trained in does not."""

    def summary(self) -> str:
        """Return a text for people: a line of counts, then one for each reason and caution."""
        lines = [
            f"weights of {self.layout}: {len(self.loaded)} loaded ({len(self.inflated)} inflated, "
            f"{len(self.resized)} resized), {len(self.left_random)} left random; "
            f"{len(self.unused)} of the source unused"
        ]
        parts = {
            "inflated": self.inflated,
            "resized": self.resized,
            "left random": self.left_random,
            "unused": self.unused,
        }
        for title, reasons in parts.items():
            for why in dict.fromkeys(reasons.values()):
                keys = [key for key, reason in reasons.items() if reason == why]
                more = f" and {len(keys) - 1} more" if len(keys) > 1 else ""
                lines.append(f"  {title}: {keys[0]}{more}: {why}")
        lines += [f"  caution: {words}" for words in self.cautions]
        return "\n".join(lines)


class WeightMatch(NamedTuple):
    """Tensors in the shapes of a model, and where each comes from."""

    tensors: dict[str, Tensor]
    """Our key -> what is to be copied into it; without the keys that are left random."""
    report: LoadReport


class _Source(NamedTuple):
    tensor: Tensor
    keys: str
    """The key in the checkpoint, or several with " + " between."""


class _Part(NamedTuple):
    target: str
    """Our key."""
    place: int
    num_parts: int


def load_weights(
    model: nn.Module,
    weights: Path | str | Mapping[str, Tensor],
    *,
    layouts: Sequence[SourceLayout],
    strict: bool = True,
) -> LoadReport:
    """Copy weights into a model, from a file or a state dict.

    A state dict of the same model is taken as it is: its keys are the same, and where shapes
    differ the family's layouts say what can be fitted. Else the first layout that is recognised
    says what each key means. If anything does not
    fit, the model stays as it was.

    Args:
        model: On any device but meta; its dtypes are kept.
        weights: A file for `read_checkpoint`, or a state dict.
        layouts: Of the model's family, the most particular first.
        strict: Refuse weights with a key that no rule covers, and those that lack a key of
            the model without the layout saying why. Else both are in the report.

    Returns:
        What was done with each key.

    Raises:
        ValueError: If no layout is recognised, or keys or shapes do not fit as above; names the
            file.
    """
    if isinstance(weights, (Path, str)):
        found = read_checkpoint(weights).state
        try:
            return load_weights(model, found, layouts=layouts, strict=strict)
        except ValueError as error:
            raise ValueError(f"{weights}: {error}") from error
    wanted = model.state_dict()
    if any(tensor.is_meta for tensor in wanted.values()):
        raise ValueError("the model is on the meta device and cannot hold weights; make it anew")
    is_own = wanted.keys() == weights.keys()
    layout = _own_layout(layouts) if is_own else recognise_layout(layouts, weights)
    match = match_layout(layout, wanted=wanted, source=weights, strict=strict)
    with torch.no_grad():
        for key, tensor in match.tensors.items():
            wanted[key].copy_(tensor)
    words = None if layout.caution is None else layout.caution(model)
    if words is not None:
        match.report.cautions.append(words)
    return match.report


def match_layout(
    layout: SourceLayout,
    *,
    wanted: Mapping[str, Tensor],
    source: Mapping[str, Tensor],
    strict: bool = True,
) -> WeightMatch:
    """Find the tensor for each of our keys; copies nothing, so meta tensors will do.

    Args:
        layout: Whose names `source` has.
        wanted: State dict of the model.
        source: State dict of the checkpoint.
        strict: As for `load_weights`.

    Raises:
        ValueError: If two source keys are for one of ours, a shape or kind of number does not
            fit, or `strict` is not met; the message lists the keys.
    """
    report = LoadReport(layout.name)
    sources, uncovered = _rename(layout, source, wanted=wanted, report=report)
    tensors: dict[str, Tensor] = {}
    faults: list[str] = []
    for key, found in sources.items():
        if key not in wanted:
            uncovered[found.keys] = f"it would be {key}, which this model does not have"
        elif _is_other_head(layout, key, theirs=found.tensor, ours=wanted[key]):
            why = f"the weights have {len(found.tensor)} classes, the model {len(wanted[key])}"
            report.left_random[key] = report.unused[found.keys] = why
        else:
            fitted = _fit(layout, key, found=found, wanted=wanted[key], report=report)
            if isinstance(fitted, Tensor):
                tensors[key] = fitted
            else:
                faults.append(fitted)
    missing = [key for key in wanted if key not in sources]
    for key in missing:
        report.left_random[key] = _answer(layout.left_random, key) or _NOT_THERE
    report.unused.update(uncovered)
    if strict:
        faults += [f"{key} of the weights: {why}" for key, why in uncovered.items()]
        faults += [
            f"{key} of the model: {_NOT_THERE}"
            for key in missing
            if report.left_random[key] == _NOT_THERE
        ]
    if faults:
        raise ValueError(_describe(layout, faults))
    return WeightMatch(tensors, report)


def _describe(layout: SourceLayout, faults: list[str]) -> str:
    listed = "".join(f"\n  {fault}" for fault in faults[:_MAX_LISTED])
    more = len(faults) - _MAX_LISTED
    tail = f"\n  and {more} more" if more > 0 else ""
    return f"the weights of {layout.name} do not fit the model; nothing was loaded:{listed}{tail}"


def _own_layout(layouts: Sequence[SourceLayout]) -> SourceLayout:
    """Return the layout of a family's own names: it fits what the family's others can fit."""
    heads = dict.fromkeys([OWN_LAYOUT.head, *(layout.head for layout in layouts)])
    adapts = list(dict.fromkeys(layout.adapt for layout in layouts if layout.adapt is not None))

    def adapt(key: str, tensor: Tensor, shape: torch.Size) -> tuple[Tensor, str] | None:
        tried = (adapt(key, tensor, shape) for adapt in adapts)
        return next((fitted for fitted in tried if fitted is not None), None)

    return OWN_LAYOUT._replace(adapt=adapt, head="|".join(heads))


def _is_other_head(layout: SourceLayout, key: str, *, theirs: Tensor, ours: Tensor) -> bool:
    return (
        re.fullmatch(layout.head, key) is not None
        and min(theirs.dim(), ours.dim()) > 0
        and len(theirs) != len(ours)
        and theirs.shape[1:] == ours.shape[1:]
    )


def _rename(
    layout: SourceLayout,
    source: Mapping[str, Tensor],
    *,
    wanted: Mapping[str, Tensor],
    report: LoadReport,
) -> tuple[dict[str, _Source], dict[str, str]]:
    """Return the sources by our keys, and why the source keys are uncovered that no rule has."""
    sources: dict[str, _Source] = {}
    uncovered: dict[str, str] = {}
    parts: dict[str, dict[int, str]] = {}
    for key, tensor in source.items():
        why = _answer(layout.ignored, key)
        part = _part_of_merge(layout, key)
        split = next((each for each in layout.splits if re.fullmatch(each.source, key)), None)
        ours = _our_key(layout.renames, key)
        further = _our_key(layout.where_wanted, key)
        if further is not None and further in wanted:
            _add(sources, further, found=_Source(tensor, key))
        if why is not None:
            if further is None or further not in wanted:
                report.unused[key] = why
        elif split is not None:
            for target, found in _shares(split, key, tensor=tensor, wanted=wanted, report=report):
                _add(sources, target, found=found)
        elif part is not None:
            parts.setdefault(part.target, {})[part.place] = key
            if len(parts[part.target]) == part.num_parts:
                keys = [name for _, name in sorted(parts.pop(part.target).items())]
                _add(sources, part.target, found=_merge({name: source[name] for name in keys}))
        elif ours is not None:
            _add(sources, ours, found=_Source(tensor, key))
        else:
            uncovered[key] = "no rule of the layout covers it"
    for target, keys_by_place in parts.items():
        for key in keys_by_place.values():
            uncovered[key] = f"{target} needs more parts than the weights have"
    return sources, uncovered


def _shares(
    split: Split,
    key: str,
    *,
    tensor: Tensor,
    wanted: Mapping[str, Tensor],
    report: LoadReport,
) -> list[tuple[str, _Source]]:
    """Return which of our keys get which rows; those for nobody are reported as unused."""
    match = re.fullmatch(split.source, key)
    assert match is not None, (split.source, key)
    count = len(split.shares)
    if tensor.dim() == 0 or len(tensor) % count:
        raise ValueError(f"{key} of the weights is {_size(tensor)}, not {count} equal parts")
    found = []
    for index, rows in enumerate(tensor.chunk(count)):
        name = key if count == 1 else f"{key} (part {index + 1} of {count})"
        targets = [match.expand(target) for target in split.shares[index]]
        taken = [target for target in targets if target in wanted]
        found += [(target, _Source(rows, name)) for target in taken]
        if not taken:
            report.unused[name] = split.otherwise
    return found


def _merge(parts: Mapping[str, Tensor]) -> _Source:
    keys = " + ".join(parts)
    if len({(part.shape[1:], part.dtype, part.dim() > 0) for part in parts.values()}) > 1:
        raise ValueError(f"{keys} of the weights differ in more than their rows")
    return _Source(torch.cat(tuple(parts.values())), keys)


def _add(sources: dict[str, _Source], key: str, *, found: _Source) -> None:
    if key in sources:
        raise ValueError(f"{sources[key].keys} and {found.keys} of the weights are both {key}")
    sources[key] = found


def _answer(rules: Sequence[tuple[str, str]], key: str) -> str | None:
    """Return what the first rule says whose regex matches the whole key."""
    return next((answer for regex, answer in rules if re.fullmatch(regex, key)), None)


def _our_key(rules: Sequence[tuple[str, str]], key: str) -> str | None:
    for regex, template in rules:
        match = re.fullmatch(regex, key)
        if match is not None:
            return match.expand(template)
    return None


def _part_of_merge(layout: SourceLayout, key: str) -> _Part | None:
    for merge in layout.merges:
        for place, regex in enumerate(merge.parts):
            match = re.fullmatch(regex, key)
            if match is not None:
                return _Part(match.expand(merge.target), place, len(merge.parts))
    return None


def _fit(
    layout: SourceLayout, key: str, *, found: _Source, wanted: Tensor, report: LoadReport
) -> Tensor | str:
    """Return the tensor in the wanted shape and report it, or say why there is none."""
    tensor = found.tensor
    if tensor.is_floating_point() != wanted.is_floating_point():
        return f"{key} is {wanted.dtype}, but {found.keys} is {tensor.dtype}"
    if tensor.shape != wanted.shape:
        adapted = layout.adapt(key, tensor, wanted.shape) if layout.adapt is not None else None
        if adapted is None:
            return f"{key} is {_size(wanted)}, but {found.keys} is {_size(tensor)}"
        tensor, how = adapted
        assert tensor.shape == wanted.shape, (layout.name, key, tensor.shape)
        assert how.startswith(("inflated", "resized")), (layout.name, key, how)
        (report.inflated if how.startswith("inflated") else report.resized)[key] = how
    report.loaded[key] = found.keys
    return tensor


def _size(tensor: Tensor) -> str:
    return " x ".join(map(str, tensor.shape)) or "one number"
