"""Make one shard: the unit of work of a sharding process.

A video that cannot be used becomes a row in the shard's report, with the stage and the reason;
it is never replaced and never stops the job.
"""

import ctypes
import errno
import re
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import av
import numpy as np

import gopstream
from gopstream.jobs.digest_cache import cached_digest
from gopstream.jobs.plan import PlannedShard, PlannedVideo
from gopstream.jobs.source_videos import OpenedVideo, VideoSource, open_planned
from gopstream.jobs.worker_process import ItemFault, Reporter
from gopstream.pipeline.clip import Clip
from gopstream.pipeline.errors import (
    BitstreamError,
    NotAVideoError,
    SourceError,
    StoreError,
    TranscodeError,
)
from gopstream.pipeline.extract import extract_segments
from gopstream.pipeline.grid import QUARTER_PIXELS
from gopstream.pipeline.options import ExtractionOptions
from gopstream.pipeline.probe import VideoFacts
from gopstream.pipeline.source_digest import SourceDigest
from gopstream.pipeline.transcode import default_ffmpeg, ffmpeg_version
from gopstream.shards.layout import sample_key
from gopstream.shards.sample_json import frame_rate
from gopstream.shards.storage import Storage
from gopstream.shards.writer import ShardWriter


@dataclass(frozen=True, slots=True)
class ShardTask:
    """What a worker process needs to make one shard."""

    shard: PlannedShard
    source: VideoSource
    storage: Storage
    split: str
    options: ExtractionOptions
    settings: Mapping[str, Any]
    """The dataset's settings, repeated in each sample's json."""
    ffmpeg_binary: str | None
    """None is the one of imageio-ffmpeg on the machine that does the task."""
    digests: Path | None = None
    """A folder that workers share what they know of long videos in."""

    @property
    def binary(self) -> str:
        """This machine's FFmpeg."""
        return self.ffmpeg_binary or default_ffmpeg()


def build_shard(task: ShardTask, reporter: Reporter, faults: Mapping[int, ItemFault]) -> None:
    """Extract the videos of a shard and publish it.

    Args:
        task: The shard.
        reporter: Hears of each video, and of progress within it; may raise to stop.
        faults: By position in the shard, videos that an earlier worker did not survive; they
            are recorded as failed and not touched.
    """
    rows = []
    with_residual = "residual" in task.options.planes
    shard = task.shard.name
    with ShardWriter(task.storage, task.split, shard, with_residual=with_residual) as writer:
        for position, video in enumerate(task.shard.videos):
            if (fault := faults.get(position)) is not None:
                row = _failed_row(video, task, stage="extract", fault=fault)
            else:
                reporter.started(position)
                row = _add_video(writer, video, task, beat=reporter.beat)
            rows.append(row)
            reporter.finished(position, succeeded=row["status"] == "done")
        writer.publish(rows)
    _give_back_memory()


def _give_back_memory() -> None:
    """Return freed memory to the system: glibc keeps several KiB per video otherwise (measured).

    Where there is another C library, nothing is done.
    """
    with suppress(OSError, AttributeError):
        ctypes.CDLL("libc.so.6").malloc_trim(0)


def _video_row(video: PlannedVideo) -> dict[str, Any]:
    row = {"video": video.index, "source": video.name, "label": video.label}
    if video.start_seconds is not None or video.end_seconds is not None:
        row |= {"start_seconds": video.start_seconds, "end_seconds": video.end_seconds}
    return row


def _failed_row(
    video: PlannedVideo, task: ShardTask, *, stage: str, fault: ItemFault
) -> dict[str, Any]:
    """Return a row of ``failures.jsonl``; its key is the one that no sample has."""
    return _video_row(video) | {
        "key": sample_key(task.split, video.index, None),
        "status": "failed",
        "stage": stage,
        "error": fault.error,
        "message": fault.message,
    }


def _add_video(
    writer: ShardWriter, video: PlannedVideo, task: ShardTask, *, beat: Callable[[], None]
) -> dict[str, Any]:
    """Add one video's samples; returns its row of the report."""
    samples: list[dict[str, Any]] = []
    try:
        with (
            writer.all_or_nothing(),
            open_planned(video, task.source, on_progress=beat) as opened,
        ):
            # Whole videos are read once anyway.
            known = task.digests if opened.window is not None else None
            digest = cached_digest(opened.path, known, on_progress=beat)
            shared = _source_facts(opened, digest, video, task)
            for sample in _add_segments(writer, opened, shared, video, task, beat=beat):
                samples.append(sample)
                beat()
    except Exception as error:  # the job's boundary: whatever it is becomes a row
        is_full = isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT)
        if isinstance(error, StoreError) or is_full:  # the latter: temporary files
            raise
        fault = ItemFault(type(error).__name__, _message(error, task))
        return _failed_row(video, task, stage=_stage(error), fault=fault)
    warnings = sorted({warning for sample in samples for warning in sample.pop("warnings")})
    return _video_row(video) | {
        "status": "done",
        "source_sha256": digest.sha256,
        "warnings": warnings,
        "samples": samples,
    }


def _message(error: Exception, task: ShardTask) -> str:
    """Return an error's words without the folders of this machine or of this run."""
    fetched = re.escape(tempfile.gettempdir()) + r"/(?:[^/\s]+/)*"
    root = re.escape(task.source.root.rstrip("/") or "//")
    return re.sub(f"{fetched}|{root}/| in {root}/?$", "", str(error))


def _stage(error: Exception) -> str:
    for kind, stage in (
        (FileNotFoundError, "open"),
        (SourceError, "fetch"),
        (NotAVideoError, "probe"),
        (TranscodeError, "transcode"),
        (BitstreamError, "decode"),
    ):
        if isinstance(error, kind):
            return stage
    return "extract"


def _add_segments(
    writer: ShardWriter,
    opened: OpenedVideo,
    shared: Mapping[str, Any],
    video: PlannedVideo,
    task: ShardTask,
    *,
    beat: Callable[[], None],
) -> Iterator[dict[str, Any]]:
    segments = extract_segments(
        opened.path,
        facts=opened.facts,
        window=opened.window,
        options=task.options,
        ffmpeg_binary=task.binary,
        on_progress=beat,
    )
    for number, (clip, is_last) in enumerate(_with_last(segments)):
        is_whole = number == 0 and is_last
        key = sample_key(task.split, video.index, None if is_whole else number)
        writer.add(key, clip, label=video.label, facts={**shared, "segment": number})
        yield {"key": key, "segment": number} | _sample_row(clip, opened.facts)


def _with_last(clips: Iterator[Clip]) -> Iterator[tuple[Clip, bool]]:
    """Yield each clip with whether it is the last: a video that fits in one is not cut."""
    held = next(clips, None)
    for clip in clips:
        assert held is not None
        yield held, False
        held = clip
    if held is not None:
        yield held, True


def _source_facts(
    opened: OpenedVideo, digest: SourceDigest, video: PlannedVideo, task: ShardTask
) -> dict[str, Any]:
    """Return what each sample's json says of its origin; nothing that differs per run."""
    facts, window = opened.facts, opened.window
    content = {
        "class": video.class_name,
        "attributes": dict(video.attributes),
        "source": {
            "name": video.name,
            "sha256": digest.sha256,
            "bytes": digest.num_bytes,
            "container": facts.container,
            "codec": facts.codec,
            "profile": facts.profile,
            "stream_index": facts.stream_index,
            "width": facts.width,
            "height": facts.height,
            "rotation": facts.rotation,
            "sample_aspect_ratio": str(facts.sample_aspect_ratio),
            "pixel_format": facts.pixel_format,
            "matrix": facts.matrix,
            "full_range": facts.full_range,
        },
        "settings": dict(task.settings),
        "tools": tool_versions(task.ffmpeg_binary),
    }
    if window is not None:
        content["window"] = {
            "start_seconds": window.start_seconds,
            "end_seconds": window.end_seconds,
        }
    return content


def tool_versions(ffmpeg_binary: str | None) -> dict[str, str]:
    """Return the versions that decide bytes, on this machine.

    Args:
        ffmpeg_binary: The FFmpeg to transcode with; None is the one of imageio-ffmpeg.
    """
    return {
        "gopstream": gopstream.__version__,
        "ffmpeg": ffmpeg_version(ffmpeg_binary or default_ffmpeg()),
        "libavcodec": ".".join(map(str, av.library_versions["libavcodec"])),
        "zstandard": version("zstandard"),
        "simplejpeg": version("simplejpeg"),
    }


def _sample_row(clip: Clip, facts: VideoFacts) -> dict[str, Any]:
    """Return a sample's row of ``samples.parquet``, without label and shard."""
    covered = clip.coverage == 1
    length = np.hypot(clip.motion[..., 0][covered], clip.motion[..., 1][covered]) / QUARTER_PIXELS
    is_predicted = np.array([kind != "I" for kind in clip.kinds])
    share = float(covered[is_predicted].mean()) if is_predicted.any() else 0.0
    rate = frame_rate(clip)
    return {
        "frames": clip.num_frames,
        "stored_frames": len(clip.jpegs),
        "fps": rate,
        "duration_seconds": round(clip.num_frames / rate, 6) if rate else 0.0,
        "width": clip.frame_size[0],
        "height": clip.frame_size[1],
        "codec": facts.codec,
        "mean_motion_pixels": round(float(length.mean()), 6) if length.size else 0.0,
        "predicted_share": round(share, 6),
        "zero_residual_share": None
        if clip.residual is None
        else round(clip.residual.zero_share, 6),
        "exactness": clip.exactness,
        "damaged_frames": len(clip.damaged_frames),
        "scene_cuts": len(clip.scene_cuts),
        "warnings": list(clip.warnings),
    }


def settings_of(options: ExtractionOptions) -> dict[str, Any]:
    """Return every option that decides a sample's bytes, as ``dataset.json`` records it."""
    content = asdict(options)
    canonical = content.pop("canonical")
    content.pop("planes")
    content.pop("backend")  # shards are made with our own
    if options.mode == "native":
        canonical = {"short_side": canonical["short_side"]}
    return {"mode": content.pop("mode"), **canonical, **content}
