"""Check that what a sample holds is right, once its bytes are known to be.

The rebuild is the exact inverse of extraction: each frame is predicted from the one before by
its stored motion, and the stored residual is added.
"""

import hashlib
from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt
import simplejpeg

from gopstream.pipeline.compensation import predict_planes
from gopstream.pipeline.grid import Planes
from gopstream.pipeline.residual import add_residual, residual_between
from gopstream.shards.layout import LABEL_MEMBER
from gopstream.shards.reader import ShardDataset
from gopstream.shards.sample_parts import MotionWindow


def check_sample(dataset: ShardDataset, position: int, *, rebuild: bool) -> Iterator[str]:
    """Yield what is wrong with one sample.

    Args:
        dataset: The open split.
        position: Of the sample.
        rebuild: Also rebuild every frame and compare it with its recorded hash.
    """
    content = dataset.read_json(position)
    yield from _check_facts(dataset, position, content)
    yield from _check_jpegs(dataset, position)
    window = dataset.read_motion(position, 0, dataset.sample(position).num_frames - 1)
    yield from _check_motion(window, content)
    if rebuild and dataset.has_residual(position):
        yield from _check_rebuild(dataset, position, window, content)


def _check_facts(dataset: ShardDataset, position: int, content: dict[str, Any]) -> Iterator[str]:
    facts = dataset.sample(position)
    label = int(dataset.labels[position])
    for name, stored, indexed in (
        ("key", content["key"], dataset.keys[position]),
        ("label", content["label"], label),
        ("cls member", dataset.read_member(position, LABEL_MEMBER).decode(), str(label)),
        ("frames", content["frames"], facts.num_frames),
        ("coded_size", tuple(content["coded_size"]), facts.coded_size),
        ("display_rect", tuple(content["display_rect"]), facts.display_rect),
        ("frame_size", tuple(content["frame_size"]), facts.frame_size),
        ("frame_index_of_jpeg", content["frame_index_of_jpeg"], facts.frame_index_of_jpeg.tolist()),
    ):
        if stored != indexed:
            yield f"{name} is {stored!r} in the sample and {indexed!r} in the index"
    if not -1 <= label < len(dataset.facts.classes):
        yield f"label {label} is not one of {len(dataset.facts.classes)} classes"


def _check_jpegs(dataset: ShardDataset, position: int) -> Iterator[str]:
    facts = dataset.sample(position)
    width, height = facts.frame_size
    for number in range(len(facts.frame_index_of_jpeg)):
        jpeg = dataset.read_jpegs(position, np.array([number]))[0]
        try:
            stated = simplejpeg.decode_jpeg_header(jpeg, strict=True)[:2]
            if stated == (height, width):
                simplejpeg.decode_jpeg(jpeg, strict=True)
            else:
                yield f"JPEG {number} is {stated[1]}x{stated[0]}, not {width}x{height}"
        except ValueError as error:
            yield f"JPEG {number} does not decode ({error})"


def _check_motion(window: MotionWindow, content: dict[str, Any]) -> Iterator[str]:
    if window.coverage.max(initial=0) > 1:
        yield "coverage has values other than 0 and 1"
    if np.any(window.motion[window.coverage == 0]):
        yield "a block that is not predicted has motion"
    kinds = np.array(list(content["frame_types"]))
    if not np.array_equal(kinds == "I", window.is_intra_frame):
        yield "the I-frames are not where the index has them"
    if window.coverage[window.is_intra_frame].any():
        yield "an I-frame has predicted blocks"


def _check_rebuild(
    dataset: ShardDataset, position: int, window: MotionWindow, content: dict[str, Any]
) -> Iterator[str]:
    width, height = dataset.sample(position).coded_size
    starts = np.flatnonzero(window.is_intra_frame).tolist()
    ends = [*starts[1:], len(window.is_intra_frame)]
    side = dataset.read_json(position, residual=True)
    # Of a residual that was added later, the main tar knows no hashes.
    hashes = content["decoded_sha256"] or side.get("decoded_sha256", [])
    if len(hashes) != len(starts):
        yield f"there are {len(hashes)} hashes of decoded frames for {len(starts)} GOPs"
        return
    exceptions = []
    for gop, (start, end) in enumerate(zip(starts, ends, strict=True)):
        residual = dataset.read_residual(position, start, end - 1)
        digest = hashlib.sha256()
        reference = None
        for frame in range(start, end):
            planes = _split_planes(residual[frame - start], height, width)
            # The I-frame of a GOP covers nothing: any reference does.
            predicted = predict_planes(
                reference or planes, window.motion[frame, 0], window.coverage[frame, 0]
            )
            reference = add_residual(predicted, planes)
            found = residual_between(reference, predicted).exceptions
            index = np.full((len(found), 1), frame, np.int32)
            exceptions.append(np.concatenate([index, found], axis=1))
            for plane in reference:
                digest.update(plane.data)
        if digest.hexdigest() != hashes[gop]:
            yield f"frames {start} to {end - 1}, rebuilt, are not those that were decoded"
    if np.concatenate(exceptions).tolist() != side["exceptions"]:
        yield "the list of residual values outside of int8 is wrong"


def _split_planes(flat: npt.NDArray[np.uint8], height: int, width: int) -> Planes:
    """Cut one frame's I420 bytes into planes."""
    luma, chroma = height * width, height * width // 4
    half = (height // 2, width // 2)
    return Planes(
        flat[:luma].reshape(height, width),
        flat[luma : luma + chroma].reshape(half),
        flat[luma + chroma :].reshape(half),
    )
