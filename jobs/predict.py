"""From a video file to its classes: through the extraction that the training data came from.

The settings of that extraction travel in the checkpoint. The videos become a small dataset in a
temporary folder, by the code of ``gopstream shard``, and are then read as evaluation reads them.
"""

import os
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final, Literal, NamedTuple

import torch
from torch import Tensor

from gopstream.jobs.add_residual import recorded_options
from gopstream.jobs.console import progress, say
from gopstream.jobs.errors import UserError
from gopstream.jobs.evaluation.outcomes import averaged_logs, split_views
from gopstream.jobs.evaluation.views import parse_views, views_per_call
from gopstream.jobs.network import check_dataset, clip_spec, input_contract, run_network
from gopstream.jobs.predictions import FailedVideo, PredictedVideo, Predictions
from gopstream.jobs.preprocess import shard_videos
from gopstream.jobs.sharding_job import PlanChoice, ShardingJob
from gopstream.jobs.source_videos import VideoSource
from gopstream.jobs.trained_run import Trained, load_trained
from gopstream.jobs.worker_folder import WorkerFolder
from gopstream.pipeline.annotations.record import VideoList, VideoRecord
from gopstream.pipeline.object_store import is_address
from gopstream.pipeline.options import ExtractionOptions
from gopstream.shards.errors import SettingsError
from gopstream.shards.loading.batch import ClipBatch
from gopstream.shards.loading.clip_spec import ClipSpec, View
from gopstream.shards.loading.loader import view_batches
from gopstream.shards.reader import ShardDataset

Mode = Literal["canonical", "native"]

_SPLIT: Final = "predict"
_VIDEOS_AT_ONCE: Final = 32
"""That lie in the temporary folder together."""
_NEEDED: Final = ("mode", "short_side", "quality", "segment_frames")
_NEEDED_IN_MODE: Final[Mapping[str, Sequence[str]]] = {"canonical": ("crf", "gop"), "native": ()}


class _Viewer(NamedTuple):
    """A network, and how samples are looked at."""

    trained: Trained
    spec: ClipSpec
    views: Sequence[View]


class _Extraction(NamedTuple):
    """How videos become samples."""

    options: ExtractionOptions
    ffmpeg_binary: str | None
    workers: int


def predict(
    checkpoint: Path,
    videos: Sequence[str],
    *,
    views: str | None = None,
    mode: Mode | None = None,
    ffmpeg_binary: str | None = None,
    workers: int = 1,
) -> Predictions:
    """Classify local video files.

    Args:
        checkpoint: File, or folder of a run: its newest.
        videos: Paths. One that cannot be used is a :class:`FailedVideo`; the others go on.
        views: Clips x crops of each segment; None takes ``test.views`` of the recipe.
        mode: Of the extraction; None takes that of the training data, another one is warned of.
        ffmpeg_binary: The FFmpeg to transcode with; None is the one of imageio-ffmpeg.
        workers: Processes that extract.

    Raises:
        UserError: If there is no checkpoint, it does not say how its data were stored, or views
            cannot be meant.
    """
    trained = load_trained(checkpoint)
    recipe = trained.recipe
    views = views or recipe.test.views
    viewer = _Viewer(trained, clip_spec(recipe, trained.network, testing=True), parse_views(views))
    options = extraction_options(
        trained.content.get("settings"),
        mode=mode,
        with_residual=viewer.spec.rgb_residual is not None,
        where=str(checkpoint),
    )
    extraction = _Extraction(options, ffmpeg_binary, workers)
    found: list[PredictedVideo | FailedVideo] = []
    for first in range(0, len(videos), _VIDEOS_AT_ONCE):
        found += _predict_some(viewer, videos[first : first + _VIDEOS_AT_ONCE], extraction)
    return Predictions(trained.sets, options.mode, views, recipe.test.average, tuple(found))


def extraction_options(
    settings: object, *, mode: Mode | None, with_residual: bool, where: str
) -> ExtractionOptions:
    """Return the options that training data were extracted with.

    Args:
        settings: What the checkpoint says of them.
        mode: Another mode, which is warned of; None for theirs.
        with_residual: Whether the residual is needed, besides frames and motion.
        where: What to call the checkpoint in errors.

    Raises:
        UserError: If a setting is missing or not understood.
    """
    if not isinstance(settings, Mapping):
        settings = {}
    recorded_mode = settings.get("mode")
    needed = (*_NEEDED, *_NEEDED_IN_MODE.get(str(recorded_mode), ()))
    missing = [name for name in needed if name not in settings]
    if missing:
        raise UserError(
            f"{where}: does not say how its training data were stored ({', '.join(missing)} "
            "missing), so that a video cannot be made the same; train with this gopstream on a "
            "dataset of 'gopstream shard', or shard the video and use 'gopstream evaluate'"
        )
    planes = ("frames", "motion", *(["residual"] if with_residual else []))
    try:
        options = replace(recorded_options(settings), planes=planes)
        if mode is not None and mode != recorded_mode:
            say(
                f"warning: the network was trained on {recorded_mode} videos and is given a "
                f"{mode} one: --mode {mode}"
            )
            options = replace(options, mode=mode)
    except (SettingsError, ValueError, TypeError) as error:
        raise UserError(f"{where}: settings of its training data: {error}") from error
    return options


def _predict_some(
    viewer: _Viewer, videos: Sequence[str], extraction: _Extraction
) -> list[PredictedVideo | FailedVideo]:
    """Classify some videos in the order given; their samples are removed again."""
    found: dict[int, PredictedVideo | FailedVideo] = {}
    for number, video in enumerate(videos):
        message = _why_not_there(video)
        if message is not None:
            found[number] = FailedVideo(video, "open", "FileNotFoundError", message)
    there = {number: video for number, video in enumerate(videos) if number not in found}
    if there:
        # Of the kind that a later job removes if this one is killed.
        folder = WorkerFolder()
        try:
            found |= _predict_there(viewer, there, folder.path / "dataset", extraction)
        finally:
            folder.remove()
    return [found[number] for number in range(len(videos))]


def _why_not_there(video: str) -> str | None:
    """Say why a path is not that of a local file; None if it is."""
    if is_address(video):
        return "is an address; predict reads local files: download it first"
    path = Path(video)
    if path.is_dir():
        return "is a folder; give the files in it"
    if not path.is_file():
        return "no such file"
    return None


def _predict_there(
    viewer: _Viewer, videos: Mapping[int, str], root: Path, extraction: _Extraction
) -> dict[int, PredictedVideo | FailedVideo]:
    """Make a dataset of some videos and look at it.

    Args:
        viewer: The network.
        videos: Local files by number.
        root: New folder for the dataset.
        extraction: How.

    Returns:
        What became of each, by number.
    """
    job = ShardingJob(
        source=VideoSource("/"),
        out=str(root),
        options=extraction.options,
        workers=max(1, min(extraction.workers, len(videos))),
        ffmpeg_binary=extraction.ffmpeg_binary,
    )
    # Known by their numbers: the same file may be given twice.
    records = tuple(
        VideoRecord(name=str(number), label=None, split=_SPLIT, path=_below_root(video))
        for number, video in videos.items()
    )
    (outcome,) = shard_videos(job, VideoList(records, classes=()), PlanChoice(videos_per_shard=1))
    found: dict[int, PredictedVideo | FailedVideo] = {}
    for row in outcome.failures:
        number = int(row["source"])
        failed = FailedVideo(videos[number], row["stage"], row["error"], row["message"])
        found[number] = failed
    if len(found) < len(videos):
        warnings = {int(row["source"]): tuple(row["warnings"]) for row in outcome.warned}
        for number, seen in _look(viewer, ShardDataset(root, _SPLIT)).items():
            found[number] = _predicted(
                seen, viewer, video=videos[number], warnings=warnings.get(number, ())
            )
    return found


def _below_root(video: str) -> str:
    """Return a path without links in its folders and without the first slash."""
    path = Path(video)
    return os.fspath(path.parent.resolve() / path.name).lstrip("/")


@dataclass(slots=True)
class _Seen:
    """The views of a video's segments so far."""

    logits: list[Tensor]
    """(outputs,) float32 of each view."""
    num_frames: int = 0
    num_segments: int = 0


def _look(viewer: _Viewer, dataset: ShardDataset) -> dict[int, _Seen]:
    """Show the network all views of all samples; returns what it says, by the video's number."""
    trained, spec, views = viewer
    check_dataset(dataset, spec)
    contract = input_contract(trained.recipe, trained.network)
    bfloat16 = trained.recipe.train.precision == "bfloat16"
    device = next(trained.network.parameters()).device
    seen: dict[int, _Seen] = defaultdict(lambda: _Seen([]))
    numbers = []
    for sample in range(len(dataset)):
        numbers.append(int(dataset.read_json(sample)["source"]["name"]))
        seen[numbers[-1]].num_frames += dataset.sample(sample).num_frames
        seen[numbers[-1]].num_segments += 1
    with (
        progress("predicting", total=len(dataset) * len(views), unit="views") as advance,
        torch.inference_mode(),
    ):
        for batch in _batches(viewer, dataset):
            with torch.autocast(device.type, dtype=torch.bfloat16, enabled=bfloat16):
                logits = run_network(trained.network, batch, contract=contract)
            for position, row in zip(batch.positions.tolist(), logits.float().cpu(), strict=True):
                seen[numbers[position // len(views)]].logits.append(row)
            advance(len(batch.keys))
    return seen


def _batches(viewer: _Viewer, dataset: ShardDataset) -> Iterator[ClipBatch]:
    """Return batches of views, as large as those of a training step at most."""
    recipe = viewer.trained.recipe
    most = recipe.test.batch_size or recipe.train.batch_size // recipe.train.accumulate
    batch_size = views_per_call(most, num_views=len(viewer.views))
    try:
        return view_batches(dataset, viewer.spec, batch_size=batch_size, views=viewer.views)
    except SettingsError:
        raise
    except ValueError as error:
        raise UserError(str(error)) from error


def _predicted(
    seen: _Seen, viewer: _Viewer, *, video: str, warnings: tuple[str, ...]
) -> PredictedVideo:
    """Average a video's views.

    Raises:
        UserError: If an output is no number.
    """
    trained = viewer.trained
    logits = torch.stack(seen.logits)[None]
    if not logits.isfinite().all():
        raise UserError(f"{video}: the network's outputs are no numbers (nan or inf)")
    return PredictedVideo(
        video=video,
        num_frames=seen.num_frames,
        num_segments=seen.num_segments,
        num_views=len(seen.logits),
        probabilities=tuple(
            averaged_logs(part, trained.recipe.test.average)[0].exp().numpy()
            for part in split_views(logits, trained.sets)
        ),
        warnings=warnings,
    )
