"""What a sharding run is told, besides the list of videos."""

from dataclasses import dataclass
from typing import Final, Literal

from gopstream.jobs.source_videos import VideoSource
from gopstream.jobs.worker_pool import DEFAULT_STALL_SECONDS
from gopstream.pipeline.object_store import StoreOptions, is_address
from gopstream.pipeline.options import ExtractionOptions
from gopstream.pipeline.transcode import default_ffmpeg
from gopstream.shards.storage import Storage, open_storage

_ABORT_SECONDS: Final = 60.0  # an upload is given up in an orderly way


@dataclass(frozen=True, slots=True)
class JobPart:
    """Which share of the shards one member of a job array makes."""

    number: int
    """1 to ``count``."""
    count: int

    def __post_init__(self) -> None:
        """Refuse a share that does not exist."""
        if not 1 <= self.number <= self.count:
            raise ValueError(f"part must be between 1 and {self.count}, got {self.number}")


@dataclass(frozen=True, slots=True)
class ShardingJob:
    """Where from, where to, how, and by whom."""

    source: VideoSource
    out: str
    """Folder or address of the dataset."""
    options: ExtractionOptions
    store: StoreOptions = StoreOptions()
    workers: int = 1
    """Processes; each makes whole shards."""
    stall_seconds: float = DEFAULT_STALL_SECONDS
    """A video without any progress for so long is stopped and recorded as failed, as is one that
    kills its worker process."""
    ffmpeg_binary: str | None = None
    """The FFmpeg to transcode with; None is the one of imageio-ffmpeg, on each machine its own."""
    engine: Literal["local", "ray"] = "local"
    ray_address: str | None = None
    """Of a running cluster; None leaves it to Ray."""
    part: JobPart | None = None
    """Make only this share and publish nothing; None makes all and publishes."""

    @property
    def storage(self) -> Storage:
        """The place of the dataset."""
        return open_storage(self.out, self.store, for_writing=True)

    @property
    def silence_seconds(self) -> float:
        """How long a worker may say nothing; for a store that takes no upload it waits so."""
        if not is_address(self.out):
            return self.stall_seconds
        return max(self.stall_seconds, 2 * self.store.patience_seconds + _ABORT_SECONDS)

    @property
    def binary(self) -> str:
        """This machine's FFmpeg."""
        return self.ffmpeg_binary or default_ffmpeg()


@dataclass(frozen=True, slots=True)
class PlanChoice:
    """What of the plan a user may choose."""

    seed: int = 0
    limit: int | None = None
    """Take only so many videos of each split, after the shuffle."""
    videos_per_shard: int | None = None
    """Upper limit; None measures a sample and makes shards of about equal bytes."""
