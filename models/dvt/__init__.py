"""Variants of the Deformable Video Transformer (CVPR 2022): each line holds what differs.

A variant is called as ``dvt_tiny(num_classes, **options)``; options are the arguments of
`DeformableVideoTransformer` and take precedence over the variant's.
"""

from functools import partial

from gopstream.models.dvt.model import DeformableVideoTransformer

# D-ST+MS-A (M): the paper's own choice after its comparison of attentions (table 2).
dvt_mvit_b = partial(DeformableVideoTransformer, attention="both")

# Tubelets of two frames: with one token frame per frame the paper's FLOPs are not met. For
# weights of an image ViT, projections="value_output" has a place for its output matrices too.
dvt_vit_b = partial(
    DeformableVideoTransformer,
    embed_dim=768,
    depth=12,
    num_heads=12,
    stage_starts=(),
    patch_kernel=(2, 16, 16),
    patch_stride=(2, 16, 16),
    patch_padding=(0, 0, 0),
    attention="both",
    coarse_stride=2,
)

# Trains in a few minutes on two CPU cores: 8 x 8 tokens in 4 token frames, two stages.
# The weights start larger than MViT's 0.02, which suits widths of several hundred: on a toy
# of eight motions over frames of pure noise, 0.06 gave 90 % after 20 s of training, 0.02 52 %.
dvt_tiny = partial(
    DeformableVideoTransformer,
    num_frames=8,
    size=32,
    embed_dim=48,
    depth=2,
    num_heads=2,
    stage_starts=(1,),
    subclip_tokens=2,
    coarse_stride=4,
    drop_path_rate=0.0,
    head_dropout=0.0,
    initial_std=0.06,
)
