"""Weights that fit, in a model that uses them otherwise: the report says so."""

import re

import pytest
import torch

from gopstream.models.pst import pst_tiny
from gopstream.models.pst.source_keys import LAYOUTS
from gopstream.models.weights.loading import load_weights

THEIR_NAMES = (
    (r"patch_embedding\.projection", "backbone.patch_embed.proj"),
    (r"patch_embedding\.norm", "backbone.patch_embed.norm"),
    (r"stages\.(\d)\.merging", r"backbone.layers.\1.downsample"),
    (r"stages\.(\d)", r"backbone.layers.\1"),
    (r"^norm", "backbone.norm"),
    (r"^head", "cls_head.fc_cls"),
    (r"attention_norm", "norm1"),
    (r"mlp_norm", "norm2"),
    (r"attention\.qkv", "attn.qkv"),
    (r"attention\.projection", "attn.proj"),
    (r"attention\.position_table", "attn.relative_position_bias_table"),
    (r"mlp\.0", "mlp.fc1"),
    (r"mlp\.2", "mlp.fc2"),
)


def their_weights(*, indices):
    """Weights of a small PST as its authors save them, or as those of Video Swin do."""
    state = {}
    for key, tensor in pst_tiny(5).state_dict().items():
        for ours, theirs in THEIR_NAMES:
            key = re.sub(ours, theirs, key)
        state[key] = tensor
    for name in indices:
        state[f"backbone.layers.0.blocks.0.attn.{name}"] = torch.zeros(1, dtype=torch.int64)
    return state


OF_PST = ("relative_position_index", "relative_position_index_old")
OF_VIDEO_SWIN = ("relative_position_index",)


@pytest.mark.parametrize(
    ("options", "indices", "cautioned"),
    [
        ({}, OF_PST, False),
        ({"rpe": "paper"}, OF_PST, True),
        ({"rpe": "paper", "temporal_window": 2}, OF_PST, True),
        ({"rpe": "paper", "temporal_window": 2}, OF_VIDEO_SWIN, False),
    ],
)
def test_weights_of_pst_under_another_rule_of_positions_are_cautioned(options, indices, cautioned):
    """The tables have one shape under both rules: nothing else would tell."""
    report = load_weights(pst_tiny(5, **options), their_weights(indices=indices), layouts=LAYOUTS)
    assert report.layout == f"authors of {'PST' if indices == OF_PST else 'Video Swin'}"
    assert not report.left_random
    assert ("caution: the authors trained with rpe='official'" in report.summary()) is cautioned
