"""Variants of SIFA-Net and SIFA-Transformer (CVPR 2022): each line holds what differs.

A variant is called as ``sifa_net_r50(num_classes, **options)``; options are the arguments of
`SifaNet` or `SifaTransformer` and take precedence over the variant's.
"""

from functools import partial

from gopstream.models.sifa.resnet import SifaNet
from gopstream.models.sifa.swin import SifaTransformer

sifa_net_r50 = partial(SifaNet)
sifa_net_r101 = partial(SifaNet, depths=(3, 4, 23, 3))
# Not in the paper: for tests and the demo, on frames of 32 pixels.
sifa_net_tiny = partial(
    SifaNet, num_frames=8, depths=(1, 2, 2, 2), base_width=16, stem_frames=1, head_dropout=0.0
)

# Neither the paper nor the authors' code has the first; the paper has the last alone.
sifa_swin_t = partial(SifaTransformer)
sifa_swin_s = partial(sifa_swin_t, depths=(2, 2, 18, 2), drop_path_rate=0.3)
sifa_swin_b = partial(sifa_swin_s, embed_dim=128, num_heads=(4, 8, 16, 32), drop_path_rate=0.5)
# At 32 pixels: two stages, of 8 x 8 tokens in four windows and of 4 x 4 tokens in one.
sifa_swin_tiny = partial(
    sifa_swin_t,
    num_frames=8,
    size=32,
    embed_dim=32,
    depths=(2, 2),
    num_heads=(2, 4),
    window_size=4,
    stem_frames=1,
    drop_path_rate=0.0,
    head_dropout=0.0,
)

__all__ = [
    "sifa_net_r50",
    "sifa_net_r101",
    "sifa_net_tiny",
    "sifa_swin_b",
    "sifa_swin_s",
    "sifa_swin_t",
    "sifa_swin_tiny",
]
