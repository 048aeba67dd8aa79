"""SIFA-Net as published, built without memory: parameters and multiply-adds."""

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from gopstream.models.sifa import sifa_net_r50, sifa_net_r101


@pytest.mark.parametrize(
    ("constructor", "options", "parameters"),
    [
        (sifa_net_r50, {"style": "released"}, 43_040_928),
        (sifa_net_r101, {"style": "released"}, 63_554_272),
        (sifa_net_r50, {}, 24_936_464),
        (sifa_net_r50, {"dual_branch": True}, 40_969_632),
        (sifa_net_r101, {}, 44_633_616),
        (sifa_net_r101, {"dual_branch": True}, 60_666_784),
    ],
)
def test_parameters_are_those_of_the_authors_code_or_of_the_papers_text(
    constructor, options, parameters
):
    with torch.device("meta"):
        model = constructor(400, **options)
    assert sum(parameter.numel() for parameter in model.parameters()) == parameters


def test_weights_of_taps_are_what_the_authors_code_counts_above_that():
    with torch.device("meta"):
        model = sifa_net_r50(400, style="released", tap_weights=True)
    weights = {key: value.numel() for key, value in model.named_buffers() if "tap_weights" in key}
    assert len(weights) == 7
    assert sum(weights.values()) == 43_105_440 - 43_040_928


def count_gmacs(model, *, num_frames, size):
    with torch.device("meta"), FlopCounterMode(display=False) as counter:
        model.eval()(torch.zeros(1, 3, num_frames, size, size))
    return counter.get_total_flops() / 2e9


def attended_places(model, *, num_frames, size):
    """(Block with attention, places of a frame, frames)."""
    parts = [(part, size // (4 * 2**i), num_frames // 4) for i, part in enumerate(model.stages)]
    if model.dual_stage is not None:
        parts.append((model.dual_stage, size // 16, num_frames // 8))
    return [
        (block, side**2, frames)
        for part, side, frames in parts
        for block in part.blocks
        if block.motion is not None
    ]


def count_offsets(model, *, num_frames, size, unused=0):
    """GMACs of the convolutions of offsets, but for `unused` frames of each clip."""
    return sum(
        9 * block.reduce.out_channels * 18 * places * (frames - unused) / 1e9
        for block, places, frames in attended_places(model, num_frames=num_frames, size=size)
    )


def count_operator(model, *, num_frames, size):
    """GMACs of the operator: 10 for each tap, place and channel, as the authors' kernels do."""
    return sum(
        10 * 9 * block.reduce.out_channels * places * frames / 1e9
        for block, places, frames in attended_places(model, num_frames=num_frames, size=size)
    )


def make_described(constructor, **options):
    """The network, and the same one without attention: the operator is slow to trace."""
    with torch.device("meta"):
        model = constructor(400, **options)
        attention = ("sifa_stages",)
        kept = {key: value for key, value in options.items() if key not in attention}
        return model, constructor(400, variant="none", **kept)


# The last frame's neighbour is missing in the released network, so that it needs no offsets there.
@pytest.mark.parametrize(("style", "unused"), [("paper", 0), ("released", 1)])
def test_attention_costs_what_its_offsets_cost(style, unused):
    model, plain = make_described(sifa_net_r50, style=style, sifa_stages=(5,), num_frames=8)
    clip = {"num_frames": 8, "size": 64}
    difference = count_gmacs(model, **clip) - count_gmacs(plain, **clip)
    assert difference == pytest.approx(count_offsets(model, unused=unused, **clip), rel=1e-9)


# The authors' code estimates offsets for the first frame too, and throws away what comes of them.
@pytest.mark.parametrize(
    ("constructor", "num_frames", "gmacs", "with_operator"),
    [
        (sifa_net_r50, 16, 23.903, 24.06),
        (sifa_net_r50, 32, 47.801, 48.11),
        (sifa_net_r50, 64, 95.598, 96.21),
        (sifa_net_r101, 16, 39.013, 39.31),
        (sifa_net_r101, 32, 78.020, 78.62),
        (sifa_net_r101, 64, 156.035, 157.23),
    ],
)
def test_gmacs_are_those_of_the_authors_code(constructor, num_frames, gmacs, with_operator):
    model, plain = make_described(constructor, style="released", num_frames=num_frames)
    clip = {"num_frames": num_frames, "size": 224}
    found = count_gmacs(plain, **clip) + count_offsets(model, **clip)
    assert found == pytest.approx(gmacs, abs=6e-4)
    assert found + count_operator(model, **clip) == pytest.approx(with_operator, abs=6e-3)


@pytest.mark.parametrize(
    ("stages", "gmacs", "dual_gmacs"),
    [
        (None, 23.20, 23.62),
        ((5,), 23.30, 23.85),
        ((4, 5), 23.70, 24.15),
        ((3, 4, 5), 24.23, 24.56),
        ((2, 3, 4, 5), 25.02, 25.17),
    ],
)
def test_gmacs_of_the_papers_text_by_stages(stages, gmacs, dual_gmacs):
    for dual_branch, size, expected in ((False, 256, gmacs), (True, 224, dual_gmacs)):
        model, plain = make_described(
            sifa_net_r50,
            dual_branch=dual_branch,
            **({} if stages is None else {"sifa_stages": stages}),
        )
        clip = {"num_frames": 16, "size": size}
        found = count_gmacs(plain, **clip)
        if stages is not None:
            found += count_offsets(model, **clip) + count_operator(model, **clip)
        assert found == pytest.approx(expected, abs=6e-3)
