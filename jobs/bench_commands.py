"""``gopstream bench``: measures against the limit and against peers, in one run."""

from pathlib import Path

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
