"""What all tests share: a fence around random numbers, small videos, the real videos."""

import hashlib
import os
import random
import signal
import subprocess
from collections.abc import Callable, Iterator
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING

import av
import hypothesis
import imageio_ffmpeg
import numpy as np
import numpy.typing as npt
import pytest

try:
    import torch
except ImportError:  # the core has no torch
    torch = None

if TYPE_CHECKING:
    from s3_server import S3Bucket, S3Server

hypothesis.settings.register_profile("same", derandomize=True, deadline=None, database=None)
hypothesis.settings.load_profile("same")

# A run in the background (nohup, &) ignores them, and so would the processes that tests interrupt.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)
if signal.getsignal(signal.SIGHUP) is signal.SIG_IGN:
    signal.signal(signal.SIGHUP, signal.SIG_DFL)

REAL_VIDEOS = Path(__file__).parents[2] / "shared" / "data"

VideoWriter = Callable[..., Path]


@pytest.fixture(autouse=True)
def fence_random_numbers() -> Iterator[None]:
    """Give back the state of every global generator, so that no test depends on its neighbours."""
    python, numpy = random.getstate(), np.random.get_state()  # noqa: NPY002
    pytorch = None if torch is None else torch.random.get_rng_state()
    yield
    random.setstate(python)
    np.random.set_state(numpy)  # noqa: NPY002
    if torch is not None:
        torch.random.set_rng_state(pytorch)


def draw_pictures(
    num_frames: int = 30,
    *,
    width: int = 96,
    height: int = 64,
    velocity: tuple[int, int] = (3, 1),
    seed: int = 0,
) -> npt.NDArray[np.uint8]:
    """Draw (T, H, W, 3) RGB: moving textured noise, and a small square that blinks."""
    rng = np.random.default_rng(seed)
    # Noise of 8 pixels, made smooth by repetition and averaging, plus a finer one.
    coarse = np.kron(rng.integers(0, 160, (24, 24, 3)), np.ones((16, 16, 1)))
    side = len(coarse)
    coarse = sum(np.roll(coarse, (i, j), (0, 1)) for i in (0, 4, 8) for j in (0, 4, 8)) / 9
    texture = (coarse + rng.integers(0, 60, (side, side, 3))).astype(np.uint8)
    pictures = []
    for frame in range(num_frames):
        shift = (frame * velocity[1], frame * velocity[0])
        picture = np.roll(texture, shift, (0, 1))[:height, :width].copy()
        picture[20:24, 20:24] = 255 if frame % 2 else 0
        pictures.append(picture)
    return np.stack(pictures)


def encode_video(
    path: Path,
    pictures: npt.NDArray[np.uint8],
    *,
    rate: int = 25,
    codec: str = "libx264",
    aspect: Fraction = Fraction(1),
) -> Path:
    """Encode RGB pictures with PyAV."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=rate)
        stream.height, stream.width = pictures.shape[1:3]
        stream.pix_fmt = "yuv420p"
        stream.codec_context.thread_count = 1
        stream.codec_context.sample_aspect_ratio = aspect
        for picture in pictures:
            frame = av.VideoFrame.from_ndarray(picture, "rgb24")
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return path


@pytest.fixture(scope="session")
def write_video() -> VideoWriter:
    """Return a function: (path, num_frames, width=, height=, velocity=, seed=, codec=, ...)."""

    def write(
        path: Path,
        num_frames: int = 30,
        *,
        rate: int = 25,
        codec: str = "libx264",
        aspect: Fraction = Fraction(1),
        **drawing: object,
    ) -> Path:
        pictures = draw_pictures(num_frames, **drawing)
        return encode_video(path, pictures, rate=rate, codec=codec, aspect=aspect)

    return write


@pytest.fixture(scope="session")
def small_video(tmp_path_factory: pytest.TempPathFactory, write_video: VideoWriter) -> Path:
    """H.264 with B-frames, 96x64, 30 frames."""
    return write_video(tmp_path_factory.mktemp("small") / "small.mp4")


@pytest.fixture(scope="session")
def resized_video(tmp_path_factory: pytest.TempPathFactory, small_video: Path) -> Path:
    """Raw H.264 whose pictures become larger in the middle: 30 of 96x64, then 30 of 160x96."""
    folder = tmp_path_factory.mktemp("resized")
    parts = []
    for size in ("96:64", "160:96"):
        part = folder / "part.h264"
        words = ["-vf", f"scale={size}", "-c:v", "libx264", "-bf", "0", "-threads", "1"]
        command = [imageio_ffmpeg.get_ffmpeg_exe(), "-v", "error", "-y", "-i", small_video]
        subprocess.run([*command, *words, part], check=True)
        parts.append(part.read_bytes())
    path = folder / "change.h264"
    path.write_bytes(b"".join(parts))
    return path


@pytest.fixture(scope="session")
def odd_video(tmp_path_factory: pytest.TempPathFactory, write_video: VideoWriter) -> Path:
    """MPEG-4 part 2, 84x52, 14 frames: sides that are not multiples of 16."""
    path = tmp_path_factory.mktemp("odd") / "odd.avi"
    return write_video(path, 14, width=84, height=52, codec="mpeg4", velocity=(-2, 2), seed=1)


@pytest.fixture(scope="session")
def rotated_video(tmp_path_factory: pytest.TempPathFactory, small_video: Path) -> Path:
    """The small video with a display matrix that turns it by a quarter."""
    path = tmp_path_factory.mktemp("rotated") / "rotated.mp4"
    command = [imageio_ffmpeg.get_ffmpeg_exe(), "-v", "error", "-display_rotation", "90"]
    subprocess.run([*command, "-i", small_video, "-c", "copy", path], check=True)
    return path


@pytest.fixture(scope="session")
def real_videos() -> dict[str, Path]:
    """Real videos by file name; skips where there are none (a user's checkout)."""
    found = {path.name: path for path in sorted(REAL_VIDEOS.glob("*.m*")) if path.suffix != ".md"}
    if not found:
        pytest.skip(f"no real videos in {os.path.relpath(REAL_VIDEOS)}")
    return found


@pytest.fixture(scope="session")
def s3_server() -> Iterator["S3Server"]:
    """Run a real S3 server on loopback, and a proxy before it that breaks things on purpose."""
    from s3_server import running_server

    with running_server() as server:
        yield server


@pytest.fixture
def s3(
    s3_server: "S3Server", request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> "S3Bucket":
    """Make an empty bucket; the environment holds credentials for it."""
    for name in [name for name in os.environ if name.startswith("AWS_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "key")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
    s3_server.proxy.reset()
    name = hashlib.sha256(request.node.nodeid.encode()).hexdigest()[:20]
    return s3_server.make_bucket(f"test-{name}")
