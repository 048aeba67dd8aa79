"""Variants of Video-FocalNet (ICCV 2023): each line holds what differs.

A variant is called as ``video_focalnet_t(num_classes, **options)``; options are the arguments
of `VideoFocalNet` and take precedence over the variant's.
"""

from functools import partial

from gopstream.models.video_focalnet.model import VideoFocalNet

# Drop path rates are those of the authors' configurations; the paper's table 1 has 0.1 for all.
video_focalnet_t = partial(VideoFocalNet, embed_dim=96, depths=(2, 2, 6, 2), drop_path_rate=0.2)
video_focalnet_s = partial(VideoFocalNet, embed_dim=96, depths=(2, 2, 18, 2), drop_path_rate=0.3)
video_focalnet_b = partial(VideoFocalNet, embed_dim=128, depths=(2, 2, 18, 2), drop_path_rate=0.5)
# Not in the paper: for tests and the demo, on frames of 32 pixels.
video_focalnet_tiny = partial(
    VideoFocalNet,
    embed_dim=32,
    depths=(1, 1, 2),
    focal_levels=(2, 2, 2),
    focal_windows=(3, 3, 3),
    drop_path_rate=0.0,
)

__all__ = ["video_focalnet_b", "video_focalnet_s", "video_focalnet_t", "video_focalnet_tiny"]
