"""DeiT-S on frames, as in appendix A.3 of PST's paper: each line holds what differs.

A variant is called as ``deit_s_tps(num_classes, **options)``; options are the arguments of
`VideoDeit` and take precedence over the variant's.
"""

from functools import partial

from gopstream.models.deit.model import VideoDeit

deit_s_2d = partial(VideoDeit, temporal_shift="none", positions="shared")

deit_s_tsm = partial(VideoDeit, temporal_shift="channel", positions="per_frame")

deit_s_tps = partial(VideoDeit, temporal_shift="patch", positions="per_frame")

# Patches of 8 x 8 pixels; heads are as wide as DeiT-S's divided by 4.
deit_tiny_tps = partial(
    deit_s_tps,
    num_frames=8,
    size=32,
    patch_size=8,
    embed_dim=64,
    depth=4,
    num_heads=4,
    drop_path_rate=0.0,
    head_dropout=0.0,
)
