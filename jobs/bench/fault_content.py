"""Whether what is extracted from a difficult file is right, and not only there.

Each check compares with something that is known: the undamaged file, the file before it was
turned, the other mode, the generated pictures.
"""

from dataclasses import dataclass
from functools import cache, cached_property
from pathlib import Path
from typing import Final, Literal

import av
import numpy as np
import numpy.typing as npt
from PIL import Image

from gopstream.pipeline.clip import Clip
from gopstream.pipeline.extract import extract_segments
from gopstream.pipeline.jpeg import decode_frame
from gopstream.pipeline.options import ExtractionOptions
from gopstream.pipeline.probe import open_video

MAX_MODE_ERROR: Final = 2.0
"""Mean absolute difference of RGB values between the frames of both modes."""
MAX_PICTURE_ERROR: Final = 10.0
"""The same, between a file of another codec or pixel format and the plain one."""
MAX_TIME_ERROR: Final = 0.002

Picture = npt.NDArray[np.uint8]
Mode = Literal["canonical", "native"]


@dataclass
class Extracted:
    """All clips of a file in one mode."""

    clips: list[Clip]

    @cached_property
    def jpegs(self) -> list[bytes]:
        """One per frame."""
        return [jpeg for clip in self.clips for jpeg in clip.jpegs]

    @cached_property
    def pictures(self) -> list[Picture]:
        """(H, W, 3) each."""
        return [decode_frame(jpeg) for jpeg in self.jpegs]

    @cached_property
    def seconds(self) -> npt.NDArray[np.float64]:
        """(T,) presentation times."""
        return np.concatenate([clip.pts * float(clip.time_base) for clip in self.clips])

    @cached_property
    def damaged(self) -> set[int]:
        """Indices of frames that may show damage."""
        return {clip.first_frame + index for clip in self.clips for index in clip.damaged_frames}

    @cached_property
    def motion(self) -> npt.NDArray[np.int16]:
        """(T, L, Hb, Wb, 2)."""
        return np.concatenate([clip.motion for clip in self.clips])


@cache
def extract(path: Path, *, mode: Mode) -> Extracted:
    """Extract a file, once in each process."""
    return Extracted(list(extract_segments(path, options=ExtractionOptions(mode=mode))))


def picture_error(first: Picture, second: Picture) -> float:
    """Return the mean absolute difference; infinite for pictures of different size."""
    if first.shape != second.shape:
        return float("inf")
    return float(np.abs(first.astype(np.int16) - second).mean())


def modes_agree(path: Path) -> list[str]:
    """Compare frames and times of both modes, where both found the same number of frames."""
    canonical, native = extract(path, mode="canonical"), extract(path, mode="native")
    if len(canonical.jpegs) != len(native.jpegs):
        return [f"{len(canonical.jpegs)} frames in canonical mode, {len(native.jpegs)} in native"]
    found = []
    errors = [
        picture_error(*pair) for pair in zip(canonical.pictures, native.pictures, strict=True)
    ]
    if max(errors) > MAX_MODE_ERROR:
        worst = int(np.argmax(errors))
        found.append(f"the modes' pictures differ by {errors[worst]:.1f} in frame {worst}")
    if canonical.damaged != native.damaged:
        found.append(f"damaged: {sorted(canonical.damaged)}, native {sorted(native.damaged)}")
    times = [part.seconds - part.seconds[0] for part in (canonical, native)]
    late = float(np.abs(times[0] - times[1]).max())
    if late > MAX_TIME_ERROR and not any("time stamps" in w for w in native.clips[-1].warnings):
        found.append(f"the modes' times differ by up to {late:.3f} s")
    return found


def is_turned(path: Path, *, plain: Path) -> list[str]:
    """Compare a file that has a display matrix with the one that has none."""
    turns = open_video(path).rotation // 90
    found = []
    upright, turned = extract(plain, mode="native"), extract(path, mode="native")
    for mode in ("canonical", "native"):
        pictures = extract(path, mode=mode).pictures
        errors = [
            picture_error(picture, np.rot90(before, turns))
            for picture, before in zip(pictures, upright.pictures, strict=True)
        ]
        if max(errors) > MAX_MODE_ERROR:
            found.append(f"{mode}: pictures are not turned by {turns} quarters: {max(errors):.1f}")
    # Counterclockwise, with y downwards: what led right leads up.
    motion = np.rot90(upright.motion, turns, axes=(2, 3))
    dx, dy = motion[..., 0], motion[..., 1]
    expected = [(dx, dy), (dy, -dx), (-dx, -dy), (-dy, dx)][turns]
    if not np.array_equal(np.stack(expected, axis=-1), turned.motion):
        found.append("native: motion is not turned with the pictures")
    return found


def sound_frames_are_intact(path: Path, *, intact: Path, first: int | None = None) -> list[str]:
    """Compare each frame that is not marked as damaged with the undamaged file's.

    Args:
        path: The damaged file.
        intact: What it was.
        first: Index in ``intact`` of the first frame; by default frames are matched by time.
    """
    found = []
    for mode in ("canonical", "native"):
        whole, part = extract(intact, mode=mode), extract(path, mode=mode)
        for index, jpeg in enumerate(part.jpegs):
            if first is None:
                gaps = np.abs(whole.seconds - part.seconds[index])
                match, is_near = int(np.argmin(gaps)), bool(gaps.min() < MAX_TIME_ERROR)
            else:
                match, is_near = first + index, True
            if not is_near or (jpeg != whole.jpegs[match] and index not in part.damaged):
                found.append(f"{mode}: frame {index} is not the intact one and not marked damaged")
    return found


def combing(luma: npt.NDArray[np.uint8]) -> float:
    """Return how much more neighbouring rows differ than rows of one field do."""
    rows = luma.astype(np.int16)
    neighbours, same_field = np.abs(rows[1:] - rows[:-1]), np.abs(rows[2:] - rows[:-2])
    return float(neighbours.mean() / same_field.mean())


def is_deinterlaced(path: Path) -> list[str]:
    """Compare the combing of the stored frames with that of the source."""
    with av.open(str(path)) as container:
        before = [
            combing(np.asarray(frame.to_ndarray(format="gray"), np.uint8))
            for frame in container.decode(video=0)
        ]
    pictures = extract(path, mode="canonical").pictures
    after = [combing(picture[..., 1]) for picture in pictures]
    if np.median(after) > 0.9 * np.median(before):
        return [f"combing fell from {np.median(before):.2f} to {np.median(after):.2f} only"]
    return []


def has_one_size(path: Path, *, second: Path) -> list[str]:
    """Check that a video whose size changes is brought to one size: ``second`` is its end."""
    pictures = extract(path, mode="canonical").pictures
    shapes = {picture.shape for picture in pictures}
    if len(shapes) != 1:
        return [f"frames of {len(shapes)} sizes"]
    height, width = pictures[0].shape[:2]
    expected = Image.fromarray(extract(second, mode="canonical").pictures[-1])
    scaled = np.asarray(expected.resize((width, height), Image.Resampling.BICUBIC))
    error = picture_error(pictures[-1], scaled)
    return [] if error < MAX_PICTURE_ERROR else [f"the second part looks wrong: {error:.1f}"]


def shows_pictures(path: Path, *, plain: Path) -> list[str]:
    """Compare the frames with those of the plain file, made from the same pictures."""
    ours, theirs = extract(path, mode="canonical"), extract(plain, mode="canonical")
    errors = [picture_error(*pair) for pair in zip(ours.pictures, theirs.pictures, strict=True)]
    if max(errors) > MAX_PICTURE_ERROR:
        return [f"frame {int(np.argmax(errors))} looks wrong: {max(errors):.1f}"]
    return []


def keeps_times(path: Path) -> list[str]:
    """Compare native times with those of the packets."""
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        times = sorted(packet.pts for packet in container.demux(stream) if packet.pts is not None)
        expected = [float(time * stream.time_base) for time in times] if stream.time_base else []
    seconds = extract(path, mode="native").seconds.tolist()
    return [] if seconds == expected else [f"times are {seconds}, must be {expected}"]
