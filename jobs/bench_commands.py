"""``gopstream bench``: measures against the limit and against peers, in one run."""

from pathlib import Path
from typing import Literal

from cyclopts import App

from gopstream.jobs.command_options import JsonFile, report
from gopstream.jobs.console import say
from gopstream.jobs.errors import UserError

bench = App(name="bench", help="Measure against the limit and against peers, in one run.")


@bench.command
def extract(video: Path | None = None, /, *, rounds: int = 5, json_file: JsonFile = None) -> int:
    """Measure extraction per core, stage by stage, next to PyAV and mvextractor.

    Streams of 340x256, 720p and 1080p are made first, with x264's defaults and with canonical
    settings.

    Example: `gopstream bench extract video.mp4 --json result.json`

    Parameters
    ----------
    video
        Source of the streams; by default one is generated.
    rounds
        How often each stage is measured; the median counts.
    """
    from gopstream.jobs.bench.extract import bench_extract

    if rounds < 1:
        raise UserError(f"--rounds must be at least 1, got {rounds}")
    if video is not None and not video.is_file():
        raise UserError(f"{video}: no such file")
    summary = bench_extract(video, rounds=rounds, on_step=say)
    if json_file != "-":
        print(summary.text)
    report(summary.content, json_file)
    return 0


@bench.command
def load(
    *,
    videos: Path | None = None,
    work: Path = Path("bench-load"),
    peers: bool = False,
    crop: Literal["area", "random"] = "area",
    quick: bool = False,
    rounds: int | None = None,
    json_file: JsonFile = None,
) -> int:
    """Measure loading next to decoders, other loaders, object storage and the bare ceiling.

    Videos of 340x256, 720p and 1080p and their shards are made first, some minutes and about
    2 GB, and kept for the next time.

    Example: `gopstream bench load --videos DIR --peers --json result.json`

    Parameters
    ----------
    videos
        Folder of videos to make the measured ones from; by default some are generated.
    work
        Folder for what is made.
    peers
        Make an environment below the work folder and measure decord, torchcodec, cv2 and
        MosaicML streaming too; some minutes and several gigabytes the first time.
    crop
        Of the clips: area is RandomResizedCrop (8 to 100 % of the frame, then a resize), random
        a crop of 224x224 out of frames whose short side is 256.
    quick
        Only a few clips: shows that everything runs, measures nothing.
    rounds
        How often each contestant has its turn; the median counts.
    """
    from gopstream.jobs.bench.load import BenchPlaces, bench_load

    if rounds is not None and rounds < 1:
        raise UserError(f"--rounds must be at least 1, got {rounds}")
    if videos is not None and not videos.is_dir():
        raise UserError(f"{videos}: no such folder")
    work = work.absolute()
    places = BenchPlaces(videos, work, work / "peers" if peers else None)
    summary = bench_load(places, crop=crop, is_quick=quick, rounds=rounds, on_step=say)
    if json_file != "-":
        print(summary.text)
    report(summary.content, json_file)
    return 0


@bench.command
def model(
    *names: str,
    train: bool = False,
    batch: int | None = None,
    minutes_each: float = 10.0,
    resume: bool = False,
    rounds: int = 5,
    quick: bool = False,
    json_file: JsonFile = None,
) -> int:
    """Measure a step of models: time and memory, next to the same networks written plainly.

    On the CPU in float32, in some minutes. Where there is a CUDA device, also training in bfloat16,
    compiled and not, and the networks of the PST paper's Table 6. Both forms of a network have the
    same weights, and must agree before they are timed.

    With --train whole training steps on a CUDA device instead, as `gopstream train` takes them,
    beside the rate of its matrix products: some minutes for each model.

    Example: `gopstream bench model pst_t --json result.json`

    Parameters
    ----------
    names
        Models of the catalogue; by default four on the CPU and all full-size ones on the GPU.
    train
        Measure training steps with the optimiser, in bfloat16, compiled and not.
    batch
        Of --train: clips of a step; by default the largest power of two that fits, up to 32.
    minutes_each
        Of --train: time for each model, after which it is left as it is.
    resume
        Of --train: leave out the models that the --json file has already.
    rounds
        How often each form has its turn; the median counts.
    quick
        Only small models: shows that everything runs, measures nothing.
    """
    from gopstream.jobs.bench.model import bench_model
    from gopstream.jobs.bench.model_training import TrainingBench, bench_training, earlier_content
    from gopstream.models.catalogue import find_model

    if rounds < 1:
        raise UserError(f"--rounds must be at least 1, got {rounds}")
    if not train and (batch is not None or resume):
        raise UserError("--batch and --resume are of --train")
    if (batch is not None and batch < 1) or minutes_each <= 0:
        raise UserError(
            f"--batch and --minutes-each must be above 0, got {batch} and {minutes_each:g}"
        )
    try:
        for name in names:
            find_model(name)
    except ValueError as error:
        raise UserError(str(error)) from error
    if train:
        summary = bench_training(
            names,
            bench=TrainingBench(batch, rounds, quick, minutes_each),
            earlier=earlier_content(json_file) if resume else None,
            on_step=say,
            on_model=lambda content: report(content, None if json_file == "-" else json_file),
        )
    else:
        summary = bench_model(names, rounds=rounds, is_quick=quick, on_step=say)
    if json_file != "-":
        print(summary.text)
    report(summary.content, json_file)
    return 1 if summary.content["failures"] else 0
