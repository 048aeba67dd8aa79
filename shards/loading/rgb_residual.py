"""The residual between frames of a clip along their accumulated motion: the RGB-R cue.

``RGB-R(t, t')(p) = I_t(p) - I_t'(p + MD(t, t')(p))`` (Wang and Torresani, "Deformable Video
Transformer", CVPR 2022, Table 1), where I are the frames that the codec decoded, rebuilt from
motion and residual, and the pixel nearest to ``p + MD`` is looked up. It is worked out in each of
the codec's planes, then cropped and resized as the clip is, then turned into R, G, B.

Dimensions: T frames of the clip, Q queries, J frames of a sub-clip, Hc x Wc pixels and Hb x Wb
blocks of the coded picture, H x W pixels of the clip.
"""

from collections.abc import Mapping
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from gopstream.pipeline.accumulated_residual import pair_residual
from gopstream.pipeline.accumulation import BLOCK_PIXELS, CellMotion
from gopstream.pipeline.grid import Planes
from gopstream.shards.errors import ShardError
from gopstream.shards.loading.clip_spec import RgbResidualSpec
from gopstream.shards.loading.colour import rgb_of_differences
from gopstream.shards.loading.device_motion import accumulated_clip, clip_motion
from gopstream.shards.loading.geometry import points_inside
from gopstream.shards.loading.resampling import resample_plane
from gopstream.shards.loading.transform import ClipTransform
from gopstream.shards.rebuilding import rebuild_frames
from gopstream.shards.sample_parts import SampleFacts
from gopstream.shards.sample_reading import Fetched

_KNOWN_SHARE: Final = 0.5
"""A pixel of the clip counts as known if so much of what it shows is."""


def residual_arrays(
    spec: RgbResidualSpec, *, num_frames: int, size: int
) -> dict[str, tuple[tuple[int, ...], npt.DTypeLike]]:
    """Return shape and type of what :func:`read_rgb_residual` fills in for a clip of T frames."""
    num_queries = len(subclip_queries(spec, num_frames=num_frames))
    shape = (spec.subclip_frames, size, size)
    return {
        "rgb_residual": ((num_queries, 3, *shape), np.float16),
        "rgb_valid": ((num_queries, *shape), np.bool_),
    }


def subclip_queries(spec: RgbResidualSpec, *, num_frames: int) -> list[int]:
    """Return the frames of a clip that are queries, in the order of accumulated motion."""
    return [
        first + query
        for first in range(0, num_frames, spec.subclip_frames)
        for query in range(0, spec.subclip_frames, spec.query_stride)
    ]


def read_rgb_residual(
    fetched: Fetched,
    sampled: npt.NDArray[np.int64],
    *,
    spec: RgbResidualSpec,
    transform: ClipTransform,
    facts: SampleFacts,
    where: str,
    out: Mapping[str, npt.NDArray[Any]],
) -> None:
    """Rebuild the frames of a clip and fill in what they show beyond each other.

    Args:
        fetched: With the sample's json, motion and residual from an I-frame on.
        sampled: (T,) frames of the sample that the clip shows, not falling.
        spec: Which pairs.
        transform: Of the clip.
        facts: Of the sample.
        where: The sample, for messages.
        out: The arrays of :func:`residual_arrays`.

    Raises:
        DamageError: If the json does not say the colours.
        ShardError: If the frames cannot be rebuilt, or their motion cannot be followed.
    """
    assert fetched.motion is not None
    assert fetched.residual is not None and fetched.json is not None
    columns, rows = (side // BLOCK_PIXELS for side in facts.coded_size)
    try:
        decoded = rebuild_frames(
            fetched.residual,
            fetched.motion,
            first_frame=fetched.first_residual,
            frames=sampled,
            coded_size=facts.coded_size,
        )
        followed = clip_motion(
            fetched.motion,
            sampled,
            subclip_frames=spec.subclip_frames,
            display_size=facts.display_end,
            cells=np.arange(rows * columns, dtype=np.int64).reshape(rows, columns),
            linear=np.eye(2, dtype=np.float32),
        )
    except ValueError as error:
        raise ShardError(f"{where}: {error}") from error
    write_rgb_residual(
        decoded,
        accumulated_clip(followed, query_stride=spec.query_stride),
        queries=subclip_queries(spec, num_frames=len(sampled)),
        transform=transform,
        facts=facts,
        to_rgb=rgb_of_differences(fetched.json, where=where),
        out=out,
    )


def write_rgb_residual(
    decoded: Planes,
    motion: CellMotion,
    *,
    queries: list[int],
    transform: ClipTransform,
    facts: SampleFacts,
    to_rgb: npt.NDArray[np.float32],
    out: Mapping[str, npt.NDArray[Any]],
) -> None:
    """Fill in the residual of all pairs of a clip.

    A pixel of the clip is the mean of what is known of the pixels that it shows, and 0 where less
    than half of them are.

    Args:
        decoded: Y (T, Hc, Wc), Cb and Cr (T, Hc / 2, Wc / 2).
        motion: Of every block, (Q, 2, J, Hb, Wb), in pixels of the coded picture.
        queries: Q frames of the clip; each is compared with the J of its sub-clip.
        transform: The clip's.
        facts: Of the sample.
        to_rgb: (3, 3) from differences of Y, Cb, Cr to those of R, G, B.
        out: ``rgb_residual`` (Q, 3, J, H, W) for the differences, in levels of which white has
            255, and ``rgb_valid`` (Q, J, H, W) for what is known.
    """
    shown = _shown(decoded, facts)
    size, num_others = transform.geometry.size, motion.valid.shape[1]
    inside = points_inside(transform.geometry, grid=size, frame_size=facts.frame_size)
    weights = torch.from_numpy(to_rgb)
    for number, query in enumerate(queries):
        others = query - query % num_others + np.arange(num_others)
        residual = torch.empty((3, num_others, size, size))
        valid = torch.zeros(0)
        for index, (plane, subsampling) in enumerate(zip(shown, (1, 2, 2), strict=True)):
            residual[index], known = _plane_residual(
                plane[query],
                plane[others],
                motion=CellMotion(motion.motion[number], motion.valid[number]),
                subsampling=subsampling,
                transform=transform,
                facts=facts,
            )
            valid = known if index == 0 else valid
        is_known = (valid >= _KNOWN_SHARE) & torch.from_numpy(inside)
        colours = torch.einsum("rc,cjhw->rjhw", weights, residual)
        out["rgb_residual"][number] = torch.where(is_known, colours, 0.0).numpy()
        out["rgb_valid"][number] = is_known.numpy()


def _shown(decoded: Planes, facts: SampleFacts) -> Planes:
    """Leave out what lies right of and below the picture that is shown."""
    x, y, width, height = facts.display_rect
    half = slice(-(-(y + height) // 2)), slice(-(-(x + width) // 2))
    return Planes(
        decoded.y[:, : y + height, : x + width],
        decoded.cb[:, half[0], half[1]],
        decoded.cr[:, half[0], half[1]],
    )


def _plane_residual(
    frame: npt.NDArray[np.uint8],
    others: npt.NDArray[np.uint8],
    *,
    motion: CellMotion,
    subsampling: int,
    transform: ClipTransform,
    facts: SampleFacts,
) -> tuple[Tensor, Tensor]:
    """Return (J, H, W) the residual of a query in one plane, and the share that is known of it."""
    pairs = [
        pair_residual(
            frame,
            other,
            displacement=np.moveaxis(motion.motion[:, j], 0, -1),
            followed=motion.valid[j],
            subsampling=subsampling,
        )
        for j, other in enumerate(others)
    ]
    x, y, width, height = facts.display_rect
    to_coded = np.array(
        [[width / facts.frame_size[0], 0.0, x], [0.0, height / facts.frame_size[1], y]]
    )
    stacked = np.concatenate(
        [np.stack([pair.residual for pair in pairs]), np.stack([pair.valid for pair in pairs])],
        dtype=np.int16,
    )
    resampled = resample_plane(stacked, transform.geometry, to_plane=to_coded / subsampling)
    total, share = resampled.tensor_split(2)
    return torch.where(share > 0, total / share.clamp(min=1e-6), 0.0), share
