"""Add the residual to a dataset that was made without it.

The videos are extracted again with the settings that the dataset records. The motion that comes
out must be the stored one, byte for byte: a residual belongs to its prediction alone.
"""

import json
import zlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any, Final

from gopstream.jobs.build_shard import tool_versions
from gopstream.jobs.console import progress
from gopstream.jobs.plan import PlannedShard, PlannedVideo, PlanPart
from gopstream.jobs.plan_files import load_parts
from gopstream.jobs.publish import is_published
from gopstream.jobs.source_videos import VideoSource, open_planned
from gopstream.jobs.worker_pool import DEFAULT_STALL_SECONDS, WorkerError, run_tasks
from gopstream.jobs.worker_process import ItemFault, Reporter
from gopstream.pipeline.clip import Clip
from gopstream.pipeline.errors import PipelineError
from gopstream.pipeline.extract import extract_segments
from gopstream.pipeline.options import ExtractionOptions
from gopstream.pipeline.source_digest import source_digest
from gopstream.pipeline.transcode import CanonicalFormat, default_ffmpeg
from gopstream.shards.dataset_files import (
    FileRecord,
    load_dataset,
    load_shard_files,
    save_dataset,
    save_shard_files,
)
from gopstream.shards.edit_files import check_changeable, read_files
from gopstream.shards.edit_index import SideMember, add_residual
from gopstream.shards.edit_planes import refresh_manifest
from gopstream.shards.edit_shard import REMOVAL_FILE, read_report
from gopstream.shards.encoding import EncodedMember, encode_plane
from gopstream.shards.errors import SettingsError, ShardError
from gopstream.shards.index import MAIN_TAR, ShardIndex, index_bytes, load_index
from gopstream.shards.layout import (
    COVERAGE_MEMBER,
    JSON_MEMBER,
    MOTION_MEMBER,
    RESIDUAL_JSON_MEMBER,
    RESIDUAL_MEMBER,
    dump_json,
    index_name,
    tar_name,
)
from gopstream.shards.sample_json import residual_json
from gopstream.shards.storage import Storage
from gopstream.shards.tar import TarWriter

_CHECKED: Final = (("motion", MOTION_MEMBER), ("coverage", COVERAGE_MEMBER))


@dataclass(frozen=True, slots=True)
class ResidualTask:
    """What a worker process needs to make the residual of one shard."""

    shard: PlannedShard
    source: VideoSource
    storage: Storage
    split: str
    options: ExtractionOptions
    ffmpeg_binary: str | None

    @property
    def binary(self) -> str:
        """This machine's FFmpeg."""
        return self.ffmpeg_binary or default_ffmpeg()


def add_residual_plane(
    storage: Storage,
    source: VideoSource,
    splits: Sequence[str],
    *,
    workers: int,
    ffmpeg_binary: str | None = None,
    stall_seconds: float = DEFAULT_STALL_SECONDS,
) -> int:
    """Add the residual to all samples of a dataset; the main tars are only read.

    A shard that has it already is passed over, so that an interrupted run is continued. The
    dataset says that it has the plane when all shards do.

    Args:
        storage: Of the dataset.
        source: Where the videos are.
        splits: All splits of the dataset; each must be finished.
        workers: Processes; each makes whole shards.
        ffmpeg_binary: The FFmpeg to transcode with; None is the one of imageio-ffmpeg.
        stall_seconds: A video without any progress for so long is an error.

    Returns:
        How many shards were made.

    Raises:
        SettingsError: If the dataset has the plane, a split is not finished, or the dataset
            cannot be changed.
        ShardError: If a video is another one now, cannot be used any more, or its motion comes
            out otherwise; names the sample and the tools that differ.
    """
    facts = load_dataset(storage)
    if "residual" in facts.planes:
        raise SettingsError(f"{storage.url}: there is a residual already")
    check_changeable(storage, splits)
    options = recorded_options(facts.settings)
    parts = {split: _load_finished(storage, split) for split in splits}
    todo = [
        (split, part, number)
        for split in splits
        for part in parts[split]
        for number in _shards_without(storage, split, part)
    ]
    # Videos are read from the plan when their shard's turn comes: there may be millions.
    tasks = (
        ResidualTask(part.shard(number), source, storage, split, options, ffmpeg_binary)
        for split, part, number in todo
    )
    total = sum(len(range(*part.bounds(number))) for _, part, number in todo)
    with progress("adding residuals", total=total, unit="videos") as advance:
        try:
            run_tasks(
                tasks,
                build_residual,
                workers=workers,
                stall_seconds=stall_seconds,
                on_item=lambda _: advance(),
            )
        except WorkerError as error:
            raise ShardError(
                f"{error} (out of memory?); finished shards are kept: run the same command again "
                "to continue, with fewer --workers perhaps"
            ) from error
    for split in splits:
        refresh_manifest(storage, split)
    save_dataset(storage, replace(facts, planes=(*facts.planes, "residual")))
    return len(todo)


def recorded_options(settings: Mapping[str, Any]) -> ExtractionOptions:
    """Return the options that a dataset was made with, for motion and residual alone.

    Raises:
        SettingsError: If it has settings that this version does not know.
    """
    canonical = {field.name for field in fields(CanonicalFormat)} & settings.keys()
    own = {field.name for field in fields(ExtractionOptions)} & settings.keys()
    unknown = sorted(settings.keys() - canonical - own)
    if unknown:
        raise SettingsError(
            f"the dataset was made with {', '.join(unknown)}, which this gopstream does not know; "
            "install the version that made it"
        )
    return ExtractionOptions(
        canonical=CanonicalFormat(**{name: settings[name] for name in canonical}),
        planes=("motion", "residual"),
        **{name: settings[name] for name in own},
    )


def _load_finished(storage: Storage, split: str) -> list[PlanPart]:
    """Return the plan of a split; refuses one that is not finished."""
    parts = load_parts(storage, split)
    if not is_published(storage, split, parts) or storage.exists(f"{split}/{REMOVAL_FILE}"):
        raise SettingsError(
            f"{storage.url}/{split} is not finished; run the command that was interrupted again, "
            "and then this"
        )
    return parts


def _shards_without(storage: Storage, split: str, part: PlanPart) -> Iterator[int]:
    """Yield the numbers of a part's shards that have no residual yet."""
    names = part.shard_names
    for number, files in enumerate(read_files(storage, split, names)):
        if tar_name(names[number], "residual") not in files:
            yield number


def build_residual(task: ResidualTask, reporter: Reporter, faults: Mapping[int, ItemFault]) -> None:
    """Make the residual tar of a shard, then its index, then note both: the work of a process.

    Args:
        task: The shard.
        reporter: Hears of each video, and of progress within it; may raise to stop.
        faults: By position in the shard, videos that an earlier worker did not survive.
    """
    storage, split, name = task.storage, task.split, task.shard.name
    rows = {row["video"]: row for row in read_report(storage, split, name)}
    index = load_index(storage, f"{split}/{index_name(name)}")
    side = tar_name(name, "residual")
    with TarWriter(storage, f"{split}/{side}") as tar:
        residuals = _Residuals(task, index, tar)
        for position, video in enumerate(task.shard.videos):
            if (fault := faults.get(position)) is not None:
                raise ShardError(f"{video.name}: {fault.error}: {fault.message}")
            reporter.started(position)
            residuals.add_video(video, rows[video.index], reporter)
            reporter.finished(position, succeeded=True)
        record = tar.publish()
    content = index_bytes(add_residual(index, residuals.members))
    storage.write(f"{split}/{index_name(name)}", content)
    files = load_shard_files(storage, split, name)
    files |= {side: record, index_name(name): FileRecord.of(content)}
    save_shard_files(storage, split, name, files)


class _Residuals:
    """Gathers the residuals of a shard's samples."""

    def __init__(self, task: ResidualTask, index: ShardIndex, tar: TarWriter) -> None:
        self.members: list[SideMember] = []
        self._task = task
        self._index = index
        self._tar = tar
        self._positions = {key.decode(): i for i, key in enumerate(index.keys.tolist())}

    def add_video(self, video: PlannedVideo, row: Mapping[str, Any], reporter: Reporter) -> None:
        """Extract one video again and add the residuals of the samples that it has."""
        samples = {sample["segment"]: sample for sample in row.get("samples", [])}
        if not samples:
            return  # it failed, or was removed
        task = self._task
        try:
            with open_planned(video, task.source, on_progress=reporter.beat) as opened:
                digest = source_digest(opened.path, on_progress=reporter.beat).sha256
                if digest != row["source_sha256"]:
                    raise ShardError(
                        f"{video.name} is not the video that the dataset was made from (its "
                        f"sha256 is {digest}, then it was {row['source_sha256']})"
                    )
                clips = extract_segments(
                    opened.path,
                    facts=opened.facts,
                    window=opened.window,
                    options=task.options,
                    ffmpeg_binary=task.binary,
                    on_progress=reporter.beat,
                )
                for segment, clip in enumerate(clips):
                    if (sample := samples.pop(segment, None)) is not None:
                        self._add_clip(sample, clip)
        except (PipelineError, FileNotFoundError) as error:
            raise ShardError(f"{video.name}: cannot be extracted again: {error}") from error
        if samples:
            raise self._other_motion(next(iter(samples.values()))["key"], "it is missing")

    def _add_clip(self, row: Mapping[str, Any], clip: Clip) -> None:
        key: str = row["key"]
        sample = self._positions[key]
        planes = {"motion": clip.motion.astype("<i2"), "coverage": clip.coverage}
        for plane, suffix in _CHECKED:
            again = encode_plane(plane, planes[plane], clip.chunk_starts).content
            if zlib.crc32(again) != self._index.member_crc32[self._row(sample, suffix)]:
                raise self._other_motion(key, f"its {plane} differs")
        if clip.residual is None:
            return  # a native stream whose residual would not be exact
        encoded = encode_plane("residual", clip.residual.planes, clip.gop_starts)
        self._add_member(sample, key, RESIDUAL_MEMBER, encoded)
        facts = residual_json(key, clip, encoded)
        if row.get("zero_residual_share") is None:
            # The sample was made without a residual: its own json lacks what is known of one.
            facts["decoded_sha256"] = clip.decoded_sha256
            facts["zero_residual_share"] = round(clip.residual.zero_share, 6)
        side = EncodedMember(dump_json(facts), [])
        self._add_member(sample, key, RESIDUAL_JSON_MEMBER, side)
        self._tar.mark()  # nothing goes back before here: a store may be sent it

    def _add_member(self, sample: int, key: str, suffix: str, member: EncodedMember) -> None:
        offset = self._tar.add(f"{key}.{suffix}", member.content)
        length, crc32 = len(member.content), zlib.crc32(member.content)
        self.members.append(SideMember(sample, suffix, offset, length, crc32, member.pieces))

    def _row(self, sample: int, suffix: str) -> int:
        """Return the row of the index that has a sample's member of the main tar."""
        index = self._index
        kind = index.member_names.tolist().index(suffix.encode())
        rows = (
            (index.member_sample == sample)
            & (index.member_kind == kind)
            & (index.member_tar == MAIN_TAR)
        )
        return int(rows.nonzero()[0][0])

    def _other_motion(self, key: str, what: str) -> ShardError:
        """Return the error of a sample that does not come out as it is stored."""
        then = self._stored_tools(key)
        now = tool_versions(self._task.binary)
        different = [
            f"{name} {then.get(name)} then, {now.get(name)} now"
            for name in sorted({*then, *now})
            if then.get(name) != now.get(name)
        ]
        return ShardError(
            f"sample {key}: extracted again, {what} from what is stored, so that a residual would "
            f"not fit; tools that differ: {'; '.join(different) or 'none'}"
        )

    def _stored_tools(self, key: str) -> dict[str, str]:
        """Return the versions that a sample's json records."""
        row = self._row(self._positions[key], JSON_MEMBER)
        task = self._task
        name = f"{task.split}/{tar_name(task.shard.name)}"
        with task.storage.local_copy(name) as path, path.open("rb") as file:
            file.seek(int(self._index.member_offset[row]))
            content = json.loads(file.read(int(self._index.member_length[row])))
        tools: dict[str, str] = content.get("tools", {})
        return tools
