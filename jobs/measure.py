"""What the videos of a list become, measured on a sample before any work.

The sample is the beginning of the plan, which is shuffled and so a fair one. Its sizes decide how
many videos go into a shard; with its times they are what ``--plan`` shows.
"""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Final, NamedTuple

import numpy as np
import numpy.typing as npt
import simplejpeg

from gopstream.jobs.plan import PlannedVideo
from gopstream.jobs.source_videos import OpenedVideo, VideoSource, open_planned
from gopstream.jobs.worker_pool import run_tasks
from gopstream.jobs.worker_process import ItemFault, Reporter
from gopstream.pipeline.clip import Clip
from gopstream.pipeline.extract import extract_segments
from gopstream.pipeline.options import ExtractionOptions
from gopstream.pipeline.transcode import default_ffmpeg
from gopstream.pipeline.window import TimeWindow
from gopstream.shards.encoding import encode_frames, encode_plane
from gopstream.shards.layout import dump_json
from gopstream.shards.sample_json import frame_rate, sample_json

SAMPLE_VIDEOS: Final = 12
OTHER_QUALITIES: Final = (75, 85, 95)
_PICTURES_PER_VIDEO: Final = 4


@dataclass(frozen=True, slots=True)
class MeasureTask:
    """What a worker process needs to measure one video."""

    video: PlannedVideo
    source: VideoSource
    options: ExtractionOptions
    ffmpeg_binary: str | None
    with_choices: bool
    """Whether to measure other qualities, and extraction without the residual, as well."""


@dataclass(frozen=True, slots=True)
class JpegCost:
    """What the stored pictures of a video take at one quality."""

    num_bytes: float
    seconds: float


@dataclass(frozen=True, slots=True)
class VideoMeasure:
    """What one video of the sample becomes, scaled to its whole length."""

    source_bytes: float
    plane_bytes: Mapping[str, float]
    """Of ``frames``, ``motion`` (with coverage), ``residual`` and ``json``."""
    video_seconds: float
    frames_per_second: float
    work_seconds: float
    """Of one worker process."""
    seconds_without_residual: float | None = None
    jpeg_costs: Mapping[int, JpegCost] = field(default_factory=dict)
    """By quality: the chosen one and others."""

    @property
    def num_bytes(self) -> float:
        """Of all planes."""
        return sum(self.plane_bytes.values())


def measure_sample(
    videos: tuple[PlannedVideo, ...],
    source: VideoSource,
    options: ExtractionOptions,
    *,
    ffmpeg_binary: str | None,
    workers: int,
    stall_seconds: float,
    on_video: Callable[[bool], None],
    with_choices: bool = False,
) -> list[VideoMeasure]:
    """Extract videos, the first segment of long ones, and keep nothing but the sizes.

    Returns:
        One measure for each video that can be used.
    """
    # A task for each, so that all workers have something to do.
    tasks = [MeasureTask(video, source, options, ffmpeg_binary, with_choices) for video in videos]
    measured = run_tasks(
        tasks, measure_video, workers=workers, stall_seconds=stall_seconds, on_item=on_video
    )
    return [measure for measure in measured if measure is not None]


def measure_video(
    task: MeasureTask, reporter: Reporter, faults: Mapping[int, ItemFault]
) -> VideoMeasure | None:
    """Measure one video; None if it cannot be used, which its shard will report."""
    measure = None
    if 0 not in faults:
        reporter.started(0)
        try:
            with open_planned(task.video, task.source, on_progress=reporter.beat) as opened:
                measure = _measure(opened, task, reporter.beat)
        except Exception:  # the job's boundary; the shard that holds the video says why
            measure = None
    reporter.finished(0, succeeded=measure is not None)
    return measure


def _measure(
    opened: OpenedVideo, task: MeasureTask, beat: Callable[[], None]
) -> VideoMeasure | None:
    whole_seconds, window = _extent(opened, task.options)
    extracted = _extract(opened, window, task, task.options, beat)
    if extracted is None:
        return None
    clip, sizes, work_seconds = extracted
    rate = frame_rate(clip) or 25.0
    seconds = clip.num_frames / rate
    scale = max(1.0, whole_seconds / seconds) if whole_seconds else 1.0
    measure = VideoMeasure(
        source_bytes=_source_bytes(opened, seconds * scale),
        plane_bytes={plane: size * scale for plane, size in sizes.items()},
        video_seconds=seconds * scale,
        frames_per_second=rate,
        work_seconds=work_seconds * scale,
    )
    if not task.with_choices:
        return measure
    without = None
    if "residual" in task.options.planes:
        planes = tuple(plane for plane in task.options.planes if plane != "residual")
        lighter = _extract(opened, window, task, replace(task.options, planes=planes), beat)
        without = None if lighter is None else lighter.seconds * scale
    costs = _jpeg_costs(clip, task.options.quality, sizes["frames"], scale=scale)
    return replace(measure, seconds_without_residual=without, jpeg_costs=costs)


class _Extracted(NamedTuple):
    """The first clip of a video, encoded, and the time that it took."""

    clip: Clip
    plane_bytes: dict[str, float]
    seconds: float


def _extract(
    opened: OpenedVideo,
    window: TimeWindow | None,
    task: MeasureTask,
    options: ExtractionOptions,
    beat: Callable[[], None],
) -> _Extracted | None:
    begun = time.perf_counter()
    clips = extract_segments(
        opened.path,
        facts=opened.facts,
        window=window,
        options=options,
        ffmpeg_binary=task.ffmpeg_binary or default_ffmpeg(),
        on_progress=beat,
    )
    clip = next(clips, None)
    if clip is None:
        return None
    sizes = _plane_bytes(clip)
    return _Extracted(clip, sizes, time.perf_counter() - begun)


def _extent(
    opened: OpenedVideo, options: ExtractionOptions
) -> tuple[float | None, TimeWindow | None]:
    """Return how long the video is, and which part of it to measure."""
    window, facts = opened.window, opened.facts
    start = window.start_seconds if window else 0.0
    end = window.end_seconds if window and window.end_seconds is not None else None
    if end is None:
        end = facts.duration_seconds
    if end is None:
        return None, window
    rate = float(facts.average_rate) or 25.0
    segment_seconds = options.segment_frames / rate
    if end - start > 1.5 * segment_seconds:
        return end - start, TimeWindow(start, start + segment_seconds)
    return end - start, window


def _source_bytes(opened: OpenedVideo, seconds: float) -> float:
    files = list(opened.path.iterdir()) if opened.path.is_dir() else [opened.path]
    num_bytes = sum(file.stat().st_size for file in files)
    whole = opened.facts.duration_seconds
    return num_bytes * min(1.0, seconds / whole) if opened.window and whole else num_bytes


def _plane_bytes(clip: Clip) -> dict[str, float]:
    members = {
        "frames": encode_frames(clip),
        "motion": encode_plane("motion", clip.motion.astype("<i2"), clip.chunk_starts),
        "coverage": encode_plane("coverage", clip.coverage, clip.chunk_starts),
    }
    residual = 0
    if clip.residual is not None:
        residual = len(encode_plane("residual", clip.residual.planes, clip.gop_starts).content)
    content = sample_json("key", clip, label=0, members=members)
    return {
        "frames": len(members["frames"].content),
        "motion": len(members["motion"].content) + len(members["coverage"].content),
        "residual": residual,
        "json": len(dump_json(content)),
    }


def _jpeg_costs(
    clip: Clip, quality: int, stored_bytes: float, *, scale: float
) -> dict[int, JpegCost]:
    """Encode a few stored pictures once more, at their own and at other qualities."""
    step = max(1, len(clip.jpegs) // _PICTURES_PER_VIDEO)
    pictures = [simplejpeg.decode_jpeg(jpeg) for jpeg in clip.jpegs[::step]]
    if not pictures:
        return {}
    costs = {q: _encode(pictures, q) for q in sorted({quality, *OTHER_QUALITIES})}
    # A picture that was a JPEG before is a little smaller the second time: only ratios count.
    by_bytes = stored_bytes * scale / costs[quality].num_bytes
    by_count = len(clip.jpegs) * scale / len(pictures)
    return {
        q: JpegCost(cost.num_bytes * by_bytes, cost.seconds * by_count) for q, cost in costs.items()
    }


def _encode(pictures: list[npt.NDArray[np.uint8]], quality: int) -> JpegCost:
    begun = time.perf_counter()
    num_bytes = sum(
        len(simplejpeg.encode_jpeg(picture, quality=quality, colorsubsampling="420"))
        for picture in pictures
    )
    return JpegCost(num_bytes, time.perf_counter() - begun)
