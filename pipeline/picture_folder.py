"""A folder of JPEG pictures taken for a video, as Something-Something v1 comes.

The pictures are put, as they are, into one temporary NUT file of Motion JPEG, one packet each,
with their numbers as time stamps. From there on it is a video like others. FFmpeg's reading of
numbered files would end at a gap without a word, and take signs such as ``%`` in a folder's name
for a pattern.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Final, NamedTuple

import av
import av.error
import av.packet
import av.video.frame
import simplejpeg

from gopstream.pipeline.errors import NotAVideoError

MAX_PICTURES: Final = 1_000_000
MAX_PICTURE_BYTES: Final = 1 << 26
MAX_PICTURE_RATE: Final = 1000
_NAME: Final = re.compile(r"(?P<prefix>.*?)(?P<number>[0-9]{1,12})\.jpe?g", re.IGNORECASE)
_SHOWN: Final = 3
_PICTURES_PER_BEAT: Final = 25


@dataclass(frozen=True, slots=True)
class PictureFolder:
    """The numbered pictures of a folder, by rising number."""

    paths: tuple[Path, ...]
    times: tuple[int, ...]
    """For each picture its number less that of the first one."""
    warnings: tuple[str, ...]
    """Gaps in the numbers, and files that were passed over."""


class PackedPictures(NamedTuple):
    """Pictures that have become a video file."""

    names: tuple[str, ...]
    """Of the files."""
    times: tuple[int, ...]
    """Time stamps in units of 1 / rate."""
    broken: frozenset[int]
    """Time stamps of pictures that are cut or damaged."""
    warnings: tuple[str, ...]


def picture_time_base(rate: float) -> Fraction:
    """Return the seconds from one number to the next, of the decimal number that ``rate`` is.

    Raises:
        ValueError: If the rate is not above 0 and at most 1000.
    """
    if not 0 < rate <= MAX_PICTURE_RATE:
        raise ValueError(f"a picture rate must be above 0 and at most 1000, got {rate}")
    return 1 / Fraction(str(rate))


def list_pictures(folder: Path) -> PictureFolder:
    """List the pictures of a folder: names that end in a number and ``.jpg`` or ``.jpeg``.

    The first number need not be 1, and numbers may have zeros in front. Where numbers are missing,
    time goes on: the gap is a warning. Other files and folders are passed over; those whose names
    do not begin with a dot are a warning.

    Raises:
        FileNotFoundError: If there is no such folder.
        NotAVideoError: If there is no picture; if one has no number, or two have the same; if
            names differ in front of the number; if there are more than a million.
    """
    if not folder.is_dir():
        what = "not a folder" if folder.exists() else "no such folder"
        raise FileNotFoundError(f"{folder}: {what}")
    numbered: dict[int, Path] = {}
    prefixes: set[str] = set()
    others: list[str] = []
    for path in sorted(folder.iterdir()):
        if path.suffix.lower() not in (".jpg", ".jpeg") or not path.is_file():
            others += [] if path.name.startswith(".") else [path.name]
            continue
        match = _NAME.fullmatch(path.name)
        if match is None:
            raise NotAVideoError(f"{folder.name}: {path.name} has no number to order it by")
        earlier = numbered.setdefault(int(match["number"]), path)
        prefixes.add(match["prefix"])
        if earlier is not path:
            raise NotAVideoError(
                f"{folder.name}: {earlier.name} and {path.name} have the same number"
            )
        if len(prefixes) > 1:
            names = " and ".join(repr(prefix) for prefix in sorted(prefixes))
            raise NotAVideoError(
                f"{folder.name}: the pictures of one video must be named alike, but their names "
                f"begin with {names}"
            )
        if len(numbered) > MAX_PICTURES:
            raise NotAVideoError(f"{folder.name}: more than {MAX_PICTURES} pictures")
    if not numbered:
        raise NotAVideoError(f"{folder.name}: the folder holds no numbered JPEG pictures")
    numbers = sorted(numbered)
    return PictureFolder(
        paths=tuple(numbered[number] for number in numbers),
        times=tuple(number - numbers[0] for number in numbers),
        warnings=tuple(_warnings(numbers, others)),
    )


def _warnings(numbers: list[int], others: list[str]) -> list[str]:
    warnings = []
    num_missing = numbers[-1] - numbers[0] + 1 - len(numbers)
    if num_missing:
        gaps = [a for a, b in zip(numbers, numbers[1:], strict=False) if b > a + 1]
        warnings.append(
            f"numbers without a picture, left as gaps in time: {num_missing}, the first is "
            f"{gaps[0] + 1}"
        )
    if others:
        warnings.append(f"no pictures, passed over: {_some_of(others)}")
    return warnings


def _some_of(names: list[str]) -> str:
    rest = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return f"{', '.join(names[:_SHOWN])}{rest}"


def read_picture(path: Path) -> bytes:
    """Read a JPEG file.

    Raises:
        NotAVideoError: If it is none, or has more than 64 MiB.
    """
    with path.open("rb") as file:
        content = file.read(MAX_PICTURE_BYTES + 1)
    if len(content) > MAX_PICTURE_BYTES:
        raise NotAVideoError(
            f"{path.parent.name}: {path.name} has more than {MAX_PICTURE_BYTES >> 20} MiB"
        )
    if content[:3] != b"\xff\xd8\xff":
        what = "is empty" if not content else "is no JPEG picture"
        raise NotAVideoError(f"{path.parent.name}: {path.name} {what}")
    return content


def decode_first(folder: PictureFolder, *, max_pixels: int) -> av.video.frame.VideoFrame:
    """Decode the first picture that can be decoded, with FFmpeg.

    Raises:
        NotAVideoError: If none can.
    """
    for path in folder.paths:
        decoder = av.CodecContext.create("mjpeg", "r")
        decoder.options = {"max_pixels": str(max_pixels)}
        try:
            for frame in [*decoder.decode(av.packet.Packet(read_picture(path))), None]:
                if isinstance(frame, av.video.frame.VideoFrame):
                    return frame
        except av.error.FFmpegError:
            continue
    raise NotAVideoError(f"{folder.paths[0].parent.name}: no picture of the folder decodes")


def pack_pictures(
    folder: Path,
    into: Path,
    *,
    size: tuple[int, int],
    time_base: Fraction,
    on_progress: Callable[[], None],
) -> PackedPictures:
    """Write the pictures of a folder into one NUT file, as they are.

    A picture that is cut or damaged is packed nevertheless, and named in a warning.

    Args:
        folder: From :func:`list_pictures`.
        into: The file to write.
        size: (width, height) of the first picture, for the file's header.
        time_base: Seconds from one number to the next.
        on_progress: Called every few pictures; may raise to stop.

    Raises:
        NotAVideoError: As :func:`list_pictures` and :func:`read_picture` say.
    """
    pictures = list_pictures(folder)
    broken: dict[int, str] = {}
    with av.open(f"file:{into.absolute()}", "w", format="nut") as container:
        stream = container.add_mux_stream(
            "mjpeg", rate=1 / time_base, width=size[0], height=size[1]
        )
        stream.time_base = time_base
        for index, (path, time) in enumerate(zip(pictures.paths, pictures.times, strict=True)):
            content = read_picture(path)
            if not _is_whole(content):
                broken[time] = path.name
            packet = av.packet.Packet(content)
            packet.stream = stream
            packet.time_base = time_base
            packet.pts = packet.dts = time
            packet.duration = 1
            packet.is_keyframe = True
            container.mux(packet)
            if index % _PICTURES_PER_BEAT == 0:
                on_progress()
    warnings = list(pictures.warnings)
    if broken:
        warnings.append(f"broken pictures: {_some_of(list(broken.values()))}")
    names = tuple(path.name for path in pictures.paths)
    return PackedPictures(names, pictures.times, frozenset(broken), tuple(warnings))


def _is_whole(content: bytes) -> bool:
    """Tell whether a JPEG decodes without a complaint."""
    try:
        simplejpeg.decode_jpeg(content, strict=True)
    except ValueError:
        return False
    return True
