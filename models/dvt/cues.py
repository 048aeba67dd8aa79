"""Motion cues that are made of the frames alone, to compare displacements with.

Wang and Torresani, "Deformable Video Transformer", CVPR 2022, section 4.1 and table 1: RGB-D and
Avg-P-RGB.

Dimensions: B batch, C channels, F sampled frames, J sampled frames of a sub-clip, Q query token
frames (F / query stride), Y, X pixels, G sub-clips (F / J), K query token frames of a sub-clip.
"""

import torch
from einops import rearrange
from torch import Tensor


def difference_cue(frames_BCFYX: Tensor, *, query_stride: int, subclip_frames: int) -> Tensor:
    """Subtract each frame of a sub-clip from each query's frame (RGB-D), place by place.

    Args:
        frames_BCFYX: (B, C, F, Y, X) floating.
        query_stride: Sampled frames from one query token frame to the next.
        subclip_frames: J, a multiple of it that divides F.

    Returns:
        (B, Q, C, J, Y, X) ``frame of query q - frame j of its sub-clip``, in the frames' dtype.
    """
    frames = rearrange(frames_BCFYX, "b c (g j) y x -> b g 1 c j y x", j=subclip_frames)
    queries = rearrange(frames[:, :, :, :, ::query_stride], "b g 1 c k y x -> b g k c 1 y x")
    return rearrange(queries - frames, "b g k c j y x -> b (g k) c j y x")


def average_cue(frames_BCFYX: Tensor, *, query_stride: int, subclip_frames: int) -> Tensor:
    """Average the sampled frames from each query's frame to each frame of its sub-clip.

    Both ends count (Avg-P-RGB). The paper does not say whether frames that were not sampled do;
    here they do not.

    Args:
        frames_BCFYX: (B, C, F, Y, X) float32 or float64: sums are made in it.
        query_stride: Sampled frames from one query token frame to the next.
        subclip_frames: J, a multiple of it that divides F.

    Returns:
        (B, Q, C, J, Y, X) means, in the frames' dtype.
    """
    frames = rearrange(frames_BCFYX, "b c (g j) y x -> b g c j y x", j=subclip_frames)
    counts = torch.arange(1, subclip_frames + 1, device=frames.device).to(frames.dtype)
    counts = counts[:, None, None]
    of_queries = []
    for query in range(0, subclip_frames, query_stride):
        after = frames[:, :, :, query:].cumsum(dim=3) / counts[: subclip_frames - query]
        back_to_first = frames[:, :, :, : query + 1].flip(3)
        before = (back_to_first.cumsum(dim=3) / counts[: query + 1]).flip(3)
        of_queries.append(torch.cat([before[:, :, :, :query], after], dim=3))
    return rearrange(of_queries, "k b g c j y x -> b (g k) c j y x")
