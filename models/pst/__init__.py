"""Variants of the Patch Shift Transformer and of Swin: each line holds what differs.

A variant is called as ``pst_t(num_classes, **options)``; options are the arguments of
`PatchShiftTransformer` and take precedence over the variant's.
"""

from functools import partial

from gopstream.models.pst.model import PatchShiftTransformer

pst_t = partial(PatchShiftTransformer)
pst_b = partial(
    pst_t, embed_dim=128, depths=(2, 2, 18, 2), num_heads=(4, 8, 16, 32), drop_path_rate=0.2
)

# The authors' code does not run with windows of two frames: they are rebuilt from the paper's
# FLOPs. Patches shift before windows roll by one frame; positions follow Eq. 5.
pst_t_dagger = partial(pst_t, temporal_window=2, rpe="paper")
pst_b_dagger = partial(pst_b, temporal_window=2, rpe="paper")

swin2d_t = partial(pst_t, block_kinds=("plain", "plain"), rpe="paper", table_frames=1)
swin2d_b = partial(pst_b, block_kinds=("plain", "plain"), rpe="paper", table_frames=1)

# Joint attention, windows of (16, 7, 7); (8, 7, 7) is temporal_window=8 and table_frames=8.
video_swin_t = partial(swin2d_t, temporal_window=16, table_frames=16)
video_swin_b = partial(swin2d_b, temporal_window=16, table_frames=16)

# At 32 pixels: two stages, of 8 x 8 tokens in four windows and of 4 x 4 tokens in one.
pst_tiny = partial(
    pst_t,
    num_frames=8,
    embed_dim=32,
    depths=(2, 2),
    num_heads=(2, 4),
    window_size=4,
    drop_path_rate=0.0,
    head_dropout=0.0,
)
