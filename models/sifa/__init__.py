"""Variants of SIFA-Net (CVPR 2022): each line holds what differs.

A variant is called as ``sifa_net_r50(num_classes, **options)``; options are the arguments of
`SifaNet` and take precedence over the variant's.
"""

from functools import partial

from gopstream.models.sifa.resnet import SifaNet

sifa_net_r50 = partial(SifaNet)
sifa_net_r101 = partial(SifaNet, depths=(3, 4, 23, 3))
# Not in the paper: for tests and the demo, on frames of 32 pixels.
sifa_net_tiny = partial(
    SifaNet, num_frames=8, depths=(1, 1, 1, 1), base_width=16, stem_frames=1, head_dropout=0.0
)

__all__ = ["sifa_net_r50", "sifa_net_r101", "sifa_net_tiny"]
