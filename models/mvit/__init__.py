"""Multiscale Vision Transformers (ICCV 2021): the baseline whose attention DVT replaces."""

from functools import partial

from gopstream.models.mvit.model import MultiscaleVisionTransformer

mvit_b = MultiscaleVisionTransformer

mvit_tiny = partial(
    MultiscaleVisionTransformer,
    num_frames=8,
    size=32,
    embed_dim=32,
    depth=3,
    stage_starts=(1,),
    pooling_stride=4,
    drop_path_rate=0.0,
    head_dropout=0.0,
)
