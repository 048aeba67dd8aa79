"""One video as plain files: ``.npy`` arrays, JPEGs and a JSON, or mvextractor's dump."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from gopstream.jobs.errors import UserError
from gopstream.pipeline.clip import Clip
from gopstream.pipeline.extract import extract_segments
from gopstream.pipeline.options import ExtractionOptions
from gopstream.pipeline.probe import VideoFacts, open_video
from gopstream.shards.layout import dump_json, write_atomic
from gopstream.shards.sample_json import frame_rate

CLIP_FILE: Final = "clip.json"
"""Written last: a folder without it is not whole."""
_RESIDUAL_NAMES: Final = ("residual_y", "residual_cb", "residual_cr")


def extract_to_folder(
    video: Path,
    folder: Path,
    *,
    options: ExtractionOptions,
    ffmpeg_binary: str,
    on_frames: Callable[[int], None],
) -> dict[str, Any]:
    """Extract a video into a new folder, segment by segment.

    Args:
        video: A local video file.
        folder: Must not exist, or be empty.
        options: What to extract; a long video is read in segments, the files are whole.
        ffmpeg_binary: The FFmpeg to transcode with.
        on_frames: Called with the number of frames written so far.

    Returns:
        What ``clip.json`` says.

    Raises:
        UserError: If the folder is not empty.
        PipelineError: If the video cannot be used; nothing but an incomplete folder is left.
    """
    facts = open_video(video)
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise UserError(f"{folder} is not empty; choose another folder")
    folder.mkdir(parents=True, exist_ok=True)
    clips = extract_segments(video, facts=facts, options=options, ffmpeg_binary=ffmpeg_binary)
    with ExitStack() as stack:
        writer = _FolderWriter(folder, stack)
        for clip in clips:
            writer.add(clip)
            on_frames(writer.num_frames)
    content = writer.summary(facts, options)
    write_atomic(folder / CLIP_FILE, dump_json(content))
    return content


@dataclass(slots=True)
class _FolderWriter:
    """Appends clips of one video to its files."""

    folder: Path
    stack: ExitStack
    """Closes the files."""
    num_frames: int = 0
    _arrays: dict[str, "_GrowingArray"] = field(default_factory=dict)
    _last: Clip | None = None
    _kinds: str = ""
    _jpeg_frames: list[int] = field(default_factory=list)
    _damaged: list[int] = field(default_factory=list)
    _cuts: list[int] = field(default_factory=list)
    _warnings: set[str] = field(default_factory=set)

    def add(self, clip: Clip) -> None:
        self._append("motion", clip.motion)
        self._append("coverage", clip.coverage)
        self._append("pts", clip.pts)
        if clip.residual is not None:
            for name, plane in zip(_RESIDUAL_NAMES, _signed_residual(clip), strict=True):
                self._append(name, plane)
        frames = clip.frame_index_of_jpeg + self.num_frames
        for frame, jpeg in zip(frames.tolist(), clip.jpegs, strict=True):
            (self.folder / "frames").mkdir(exist_ok=True)
            (self.folder / "frames" / f"{frame:06d}.jpg").write_bytes(jpeg)
            self._jpeg_frames.append(frame)
        self._damaged += [self.num_frames + frame for frame in clip.damaged_frames]
        self._cuts += [self.num_frames + frame for frame in clip.scene_cuts]
        self._warnings.update(clip.warnings)
        self._kinds += clip.kinds
        self.num_frames += clip.num_frames
        self._last = clip

    def _append(self, name: str, values: npt.NDArray[Any]) -> None:
        if name not in self._arrays:
            array = _GrowingArray(self.folder / f"{name}.npy", values)
            self._arrays[name] = self.stack.enter_context(closing(array))
        self._arrays[name].append(values)

    def summary(self, facts: VideoFacts, options: ExtractionOptions) -> dict[str, Any]:
        assert self._last is not None
        clip = self._last
        return {
            "video": facts.path.name,
            "mode": options.mode,
            "backend": options.backend,
            "frames": self.num_frames,
            "fps": frame_rate(clip) or float(facts.average_rate),
            "time_base": [clip.time_base.numerator, clip.time_base.denominator],
            "frame_types": self._kinds,
            "coded_size": list(clip.coded_size),
            "display_rect": list(clip.display_rect),
            "frame_size": list(clip.frame_size),
            "frame_index_of_jpeg": self._jpeg_frames,
            "exactness": clip.exactness,
            "damaged_frames": self._damaged,
            "scene_cuts": self._cuts,
            "warnings": sorted(self._warnings),
            "files": sorted(f"{name}.npy" for name in self._arrays),
        }


def _signed_residual(clip: Clip) -> Iterator[npt.NDArray[np.int16]]:
    """Yield the residual of Y, Cb and Cr as (T, H, W) int16, decoded minus predicted."""
    assert clip.residual is not None
    width, height = clip.coded_size
    exceptions = clip.residual.exceptions
    start = 0
    for index, (rows, columns) in enumerate(
        [(height, width), (height // 2, width // 2), (height // 2, width // 2)]
    ):
        stored = clip.residual.planes[:, start : start + rows * columns]
        signed = stored.view(np.int8).astype(np.int16).reshape(-1, rows, columns)
        chosen = exceptions[exceptions[:, 1] == index]
        signed[chosen[:, 0], chosen[:, 2], chosen[:, 3]] = chosen[:, 4]
        start += rows * columns
        yield signed


class _GrowingArray:
    """A ``.npy`` file that grows along its first axis; its header is written again at the end."""

    def __init__(self, path: Path, first: npt.NDArray[Any]) -> None:
        self._file = path.open("wb")
        self._dtype, self._shape = first.dtype.newbyteorder("<"), first.shape[1:]
        self._length = 0
        self._write_header()

    def append(self, values: npt.NDArray[Any]) -> None:
        if values.shape[1:] != self._shape:
            raise ValueError(f"expected (T, *{self._shape}), got {values.shape}")
        self._file.write(np.ascontiguousarray(values, self._dtype).data)
        self._length += len(values)

    def close(self) -> None:
        """Write the header with the final length; NumPy leaves room for it."""
        self._file.seek(0)
        self._write_header()
        self._file.close()

    def _write_header(self) -> None:
        header = {
            "descr": np.lib.format.dtype_to_descr(self._dtype),
            "fortran_order": False,
            "shape": (self._length, *self._shape),
        }
        np.lib.format.write_array_header_1_0(self._file, header)
