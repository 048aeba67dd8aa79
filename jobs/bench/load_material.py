"""What ``gopstream bench load`` reads: videos, their shards, and the same JPEGs for peers.

Made once into a work folder and found again by the settings that made it.
"""

import hashlib
import io
import json
import os
import shutil
import subprocess
import tarfile
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final, Literal

import numpy as np

from gopstream.jobs.bench.load_peer import Clip
from gopstream.jobs.errors import UserError
from gopstream.jobs.preprocess import shard_folder
from gopstream.jobs.sharding_job import PlanChoice
from gopstream.pipeline.errors import NotAVideoError
from gopstream.pipeline.options import ExtractionOptions
from gopstream.pipeline.probe import open_video
from gopstream.pipeline.transcode import default_ffmpeg, ffmpeg_version
from gopstream.pipeline.video_source import list_files
from gopstream.shards.reader import ShardDataset

NUM_FRAMES: Final = 16
STRIDE: Final = 4
SIZE: Final = 224
CROP_SCALE: Final = (0.08, 1.0)
CROP_RATIO: Final = (3 / 4, 4 / 3)
FLIP: Final = 0.5
SHORT_SIDE: Final = 256
"""Of the shards' frames."""
SPLIT: Final = "train"
SMALL: Final = "340x256"
SMALL_GOP: Final = "340x256, GOP 12"
_FPS: Final = 30
_SEED: Final = 5
_VIDEOS_PER_SHARD: Final = 8
_CLIPS_PER_TAR: Final = 48
_NUM_MASTERS: Final = 4
_VERSION: Final = 1
"""Of the rules below: other rules make other folders."""


CropKind = Literal["area", "random"]


@dataclass(frozen=True, slots=True)
class MaterialKind:
    """One size and GOP structure."""

    name: str
    width: int
    height: int
    num_videos: int
    settings: tuple[str, ...]
    """Of x264."""
    has_shards: bool = True
    """Whether shards are made of it: pictures of one size need them once."""


@dataclass(frozen=True, slots=True)
class BenchSize:
    """How much is made and measured."""

    num_frames: int
    kinds: tuple[MaterialKind, ...]
    clips: int
    """Clips of each kind that all decoders read, round and round."""
    batch_size: int
    rounds: int
    clips_of_ours: int
    """In a round; those of decoders are fewer, see ``clips_of_decoders``."""
    clips_of_decoders: Mapping[str, int]
    clips_of_stages: int


_DEFAULT_GOP: Final = ("-preset", "medium", "-crf", "23")
_FAST_GOP: Final = ("-preset", "veryfast", "-crf", "23")
_SHORT_GOP: Final = ("-preset", "medium", "-crf", "23", "-g", "12", "-bf", "0")

FULL: Final = BenchSize(
    num_frames=10 * _FPS,
    kinds=(
        MaterialKind(SMALL, 340, 256, 96, _DEFAULT_GOP),
        MaterialKind(SMALL_GOP, 340, 256, 96, _SHORT_GOP, has_shards=False),
        MaterialKind("720p", 1280, 720, 24, _FAST_GOP),
        MaterialKind("1080p", 1920, 1080, 16, _FAST_GOP),
    ),
    clips=192,
    batch_size=8,
    rounds=7,
    clips_of_ours=128,
    clips_of_decoders={SMALL: 16, SMALL_GOP: 24, "720p": 8, "1080p": 6},
    clips_of_stages=96,
)
QUICK: Final = BenchSize(
    num_frames=80,
    kinds=(
        MaterialKind(SMALL, 340, 256, 4, ("-preset", "ultrafast")),
        MaterialKind(SMALL_GOP, 340, 256, 2, ("-preset", "ultrafast", "-g", "12"), False),
        MaterialKind("720p", 1280, 720, 1, ("-preset", "ultrafast"), False),
    ),
    clips=4,
    batch_size=2,
    rounds=1,
    clips_of_ours=4,
    clips_of_decoders={SMALL: 2, SMALL_GOP: 2, "720p": 1},
    clips_of_stages=4,
)


@dataclass(frozen=True, slots=True)
class Material:
    """One kind, made."""

    kind: MaterialKind
    videos: tuple[Path, ...]
    dataset: Path | None
    clips: tuple[Clip, ...]
    video_bytes: int


@dataclass(frozen=True, slots=True)
class CutClips:
    """Clips cut beforehand: their sixteen JPEGs, byte for byte those of the shards, in tars."""

    tars: tuple[Path, ...]
    mds: Path
    """Folder for the same in MosaicML's format; whoever reads it writes it."""
    frame_shape: tuple[int, int, int]
    clips: tuple[Clip, ...]


def make_materials(
    sources: Path | None,
    work: Path,
    *,
    size: BenchSize,
    crop: CropKind,
    on_step: Callable[[str], None],
) -> tuple[list[Material], CutClips]:
    """Make or find everything.

    Args:
        sources: Folder of videos to make others from, its sub-folders included; None generates
            textures that move.
        work: Folder to keep it in.
        size: How much.
        crop: What is cut out of a clip's frames.
        on_step: Called with what is being made.

    Returns:
        The materials, and the clips of the first one cut for those who stream JPEGs.

    Raises:
        UserError: If the folder holds no video.
    """
    given = [] if sources is None else _usable(sources, work, size=size, on_step=on_step)
    home = work / _fingerprint(given, size)
    originals = _masters(home, size, on_step) if sources is None else [path for _, path in given]
    materials = []
    for kind in size.kinds:
        folder = home / kind.name.replace(", ", "_").replace(" ", "_")
        videos = _make_videos(kind, originals, folder / "videos", size=size, on_step=on_step)
        dataset = _make_shards(videos, folder, kind, on_step) if kind.has_shards else None
        num_bytes = sum(video.stat().st_size for video in videos)
        clips = draw_clips(
            size.clips,
            num_videos=len(videos),
            num_frames=size.num_frames,
            crop=crop,
            aspect=kind.width / kind.height,
        )
        materials.append(Material(kind, tuple(videos), dataset, clips, num_bytes))
    first = materials[0]
    assert first.dataset is not None
    return materials, _cut_clips(first.dataset, first.clips, home / "cut")


def draw_clips(
    count: int, *, num_videos: int, num_frames: int, crop: CropKind, aspect: float
) -> tuple[Clip, ...]:
    """Draw starts, crops and flips, the same ones each time.

    Args:
        count: How many.
        num_videos: They are taken in turn.
        num_frames: Of each.
        crop: ``area`` is RandomResizedCrop; ``random`` a crop of the clip's size out of frames
            whose short side is that of the shards.
        aspect: Width over height of the videos.
    """
    rng = np.random.default_rng(_SEED)
    clips = []
    for number in range(count):
        area = rng.uniform(*CROP_SCALE)
        shape = np.exp(rng.uniform(*np.log(CROP_RATIO)))
        # In shares of the frame.
        width = float(min(1.0, np.sqrt(area * shape / aspect)))
        height = float(min(1.0, np.sqrt(area / shape * aspect)))
        if crop == "random":
            width, height = SIZE / (SHORT_SIDE * aspect), SIZE / SHORT_SIDE
        clips.append(
            Clip(
                video=number % num_videos,
                start=int(rng.integers(num_frames - (NUM_FRAMES - 1) * STRIDE)),
                left=float(rng.uniform(0, 1 - width)),
                top=float(rng.uniform(0, 1 - height)),
                width=width,
                height=height,
                flip=bool(rng.random() < FLIP),
            )
        )
    return tuple(clips)


def _fingerprint(given: Sequence[tuple[str, Path]], size: BenchSize) -> str:
    made_from: dict[str, Any] = {
        "version": _VERSION,
        "ffmpeg": ffmpeg_version(default_ffmpeg()),
        "sources": [(name, path.stat().st_size) for name, path in given],
        "frames": size.num_frames,
        "clips": size.clips,
        "kinds": [asdict(kind) for kind in size.kinds],
    }
    return hashlib.sha256(json.dumps(made_from).encode()).hexdigest()[:16]


def _usable(
    folder: Path, work: Path, *, size: BenchSize, on_step: Callable[[str], None]
) -> list[tuple[str, Path]]:
    """Return the first videos below a folder, as many as are used, with their names there."""
    own = work.resolve()
    is_inside = folder.resolve() in own.parents
    count = max(kind.num_videos for kind in size.kinds)
    found: list[tuple[str, Path]] = []
    for name in list_files(str(folder)):
        path = folder / name
        if len(found) == count:
            break
        if is_inside and own in path.resolve().parents:
            continue  # what an earlier run has made
        if any(part.startswith(".") for part in Path(name).parts):
            continue
        try:
            open_video(path)
        except NotAVideoError as error:
            on_step(f"skipped: {error}")
        else:
            found.append((name, path))
    if not found:
        raise UserError(
            f"--videos {folder}: there is no video in it or its sub-folders; name another folder, "
            "or leave --videos out to measure with generated ones"
        )
    return found


def _masters(home: Path, size: BenchSize, on_step: Callable[[str], None]) -> list[Path]:
    """Generate sources: zooms into several places of the Mandelbrot set, with noise."""
    folder = home / "masters"
    paths = [
        folder / f"{number}.mp4" for number in range(min(_NUM_MASTERS, size.kinds[0].num_videos))
    ]

    def make(number: int) -> None:
        zoom = f"start_x={-0.74 - 0.003 * number}:start_y={-0.13 + 0.02 * number}:end_pts=600"
        given = f"mandelbrot=size=640x360:rate={_FPS}:{zoom},noise=alls=8:allf=t:all_seed={number}"
        command = ["-f", "lavfi", "-i", given, "-frames:v", str(size.num_frames)]
        _ffmpeg([*command, "-vf", "format=yuv420p", "-preset", "veryfast"], paths[number])

    on_step("generating videos")
    _in_parallel(make, [n for n, path in enumerate(paths) if not path.exists()])
    return paths


def _make_videos(
    kind: MaterialKind,
    originals: Sequence[Path],
    folder: Path,
    *,
    size: BenchSize,
    on_step: Callable[[str], None],
) -> list[Path]:
    paths = [folder / f"{number:04d}.mp4" for number in range(kind.num_videos)]

    def make(number: int) -> None:
        again, which = divmod(number, len(originals))
        filters = f"fps={_FPS},scale={kind.width}:{kind.height}:flags=bicubic,setsar=1"
        filters += ",format=yuv420p" + (",hflip" if again % 2 else "")
        given = ["-stream_loop", "-1", "-ss", f"{again // 2 * 0.37:.2f}"]
        given += ["-i", f"file:{originals[which]}", "-an", "-vf", filters]
        _ffmpeg([*given, "-frames:v", str(size.num_frames), *kind.settings], paths[number])

    missing = [number for number, path in enumerate(paths) if not path.exists()]
    if missing:
        on_step(f"encoding {len(missing)} videos of {kind.name}")
    _in_parallel(make, missing)
    return paths


def _in_parallel(make: Callable[[int], None], numbers: Sequence[int]) -> None:
    with ThreadPoolExecutor(os.cpu_count() or 1) as pool:
        for made in [pool.submit(make, number) for number in numbers]:
            made.result()


def _ffmpeg(arguments: Sequence[str], path: Path) -> None:
    """Encode with one thread; the file appears whole."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(".partial.mp4")
    command = [default_ffmpeg(), "-nostdin", "-v", "error", "-y", *arguments]
    command += ["-c:v", "libx264", "-threads", "1", "-movflags", "+faststart", str(partial)]
    subprocess.run(command, check=True)
    partial.replace(path)


def _make_shards(
    videos: Sequence[Path], folder: Path, kind: MaterialKind, on_step: Callable[[str], None]
) -> Path:
    """Shard as users do: canonical, short side 256, quality 90. Continues what was begun."""
    out = folder / "shards"
    on_step(f"sharding {kind.name}")
    shard_folder(
        videos[0].parent,
        out,
        options=ExtractionOptions(planes=("frames", "motion")),
        split=SPLIT,
        choice=PlanChoice(videos_per_shard=_VIDEOS_PER_SHARD),
        workers=os.cpu_count() or 1,
    )
    return out


def _cut_clips(dataset: Path, clips: Sequence[Clip], folder: Path) -> CutClips:
    """Write the JPEGs of each clip as one member, and their sizes as another."""
    opened = ShardDataset(dataset, SPLIT)
    width, height = opened.sample(0).frame_size
    tars = []
    for first in range(0, len(clips), _CLIPS_PER_TAR):
        path = folder / "tars" / f"{first // _CLIPS_PER_TAR:06d}.tar"
        tars.append(path)
        if path.exists():
            continue
        path.parent.mkdir(parents=True, exist_ok=True)
        partial = path.with_suffix(".partial")
        with tarfile.open(partial, "w", format=tarfile.USTAR_FORMAT) as tar:
            for number, clip in enumerate(clips[first : first + _CLIPS_PER_TAR], first):
                frames = clip.start + STRIDE * np.arange(NUM_FRAMES)
                jpegs = [bytes(jpeg) for jpeg in opened.read_jpegs(clip.video, frames)]
                sizes = np.array([len(jpeg) for jpeg in jpegs], np.int32)
                _add(tar, f"{number:06d}.jpegs", b"".join(jpegs))
                _add(tar, f"{number:06d}.sizes", sizes.tobytes())
        partial.replace(path)
        shutil.rmtree(folder / "mds", ignore_errors=True)
    return CutClips(tuple(tars), folder / "mds", (height, width, 3), tuple(clips))


def _add(tar: tarfile.TarFile, name: str, content: bytes) -> None:
    member = tarfile.TarInfo(name)
    member.size = len(content)
    tar.addfile(member, io.BytesIO(content))
