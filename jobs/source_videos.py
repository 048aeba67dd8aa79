"""Open the videos of a plan, wherever they are."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from gopstream.jobs.plan import PlannedVideo
from gopstream.pipeline.object_store import StoreOptions
from gopstream.pipeline.probe import VideoFacts, open_video
from gopstream.pipeline.video_source import local_pictures, local_video
from gopstream.pipeline.window import TimeWindow


@dataclass(frozen=True, slots=True)
class VideoSource:
    """Where the videos of a list are."""

    root: str
    """A local folder or an address."""
    store: StoreOptions = StoreOptions()


@dataclass(frozen=True, slots=True)
class OpenedVideo:
    """A video that lies on the local disk now."""

    path: Path
    facts: VideoFacts
    window: TimeWindow | None
    """The part of it that is meant; None for all."""


@contextmanager
def open_planned(
    video: PlannedVideo, source: VideoSource, *, on_progress: Callable[[], None]
) -> Iterator[OpenedVideo]:
    """Bring a video to the local disk if it is not there, and probe it.

    Raises:
        FileNotFoundError: If it does not exist.
        PipelineError: If it cannot be fetched, or is no video.
    """
    fetch = local_video if video.picture_rate is None else local_pictures
    name = video.path or video.name
    with fetch(source.root, name, options=source.store, on_progress=on_progress) as path:
        facts = open_video(path, picture_rate=video.picture_rate)
        window = None
        if video.start_seconds is not None or video.end_seconds is not None:
            window = TimeWindow(video.start_seconds or 0.0, video.end_seconds)
        yield OpenedVideo(path, facts, window)
