"""A dump of mvextractor as the inspector sees it, theirs or ours: vectors, kinds, perhaps pictures.

The layout has no sizes and no time stamps. The size of the pictures is taken from their files, or
else from how far the vectors reach. mvextractor draws the vectors into the pictures that it dumps,
and turns neither when a video is to be shown turned.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Final

import numpy as np
import numpy.typing as npt
import simplejpeg

from gopstream.jobs.inspection.frame_range import frame_range
from gopstream.jobs.inspection.inspected import ClipFacts, InspectedFrame
from gopstream.jobs.inspection.vector_table import COLUMN
from gopstream.pipeline.errors import BitstreamError
from gopstream.pipeline.grid import MACROBLOCK, BlockMotion, whole_macroblocks
from gopstream.pipeline.jpeg import decode_frame
from gopstream.pipeline.motion import rasterise_vectors
from gopstream.pipeline.mvextractor_backend import records_from_table
from gopstream.pipeline.mvextractor_dump import read_dump
from gopstream.pipeline.options import FRAMES_PER_BEAT

# AVPictureType: switching pictures and sprites count as what they are coded like.
_KINDS: Final = {"S": "P", "i": "I", "p": "P", "b": "B"}
_LARGEST_SIDE: Final = 16384

Size = tuple[int, int]
"""(width, height) in pixels."""


class DumpClip:
    """A folder of ``extract_mvs --dump`` or of ``gopstream extract --format mvextractor``."""

    def __init__(self, folder: Path, *, on_frames: Callable[[int], None] | None = None) -> None:
        """Read all tables once.

        Args:
            folder: Of the dump.
            on_frames: Called now and then with the number of tables read; may raise to stop.

        Raises:
            FileNotFoundError: If the folder is not there.
            BitstreamError: If it is not a whole dump; names the file.
        """
        self._folder = folder
        survey = _survey(folder, on_frames or (lambda count: None))
        shown = survey.picture_size or (0, 0)
        width, height = (
            max(MACROBLOCK, whole_macroblocks(side), whole_macroblocks(reach))
            for side, reach in zip(shown, survey.reach, strict=True)
        )
        self.facts = ClipFacts(
            name=folder.absolute().name,
            source="dump",
            mode="native",
            kinds="".join(survey.kinds),
            times=np.arange(len(survey.kinds), dtype=np.float64),
            has_times=False,
            coded_size=(width, height),
            display_rect=(0, 0, *(survey.picture_size or (width, height))),
            num_lists=survey.num_lists,
            planes=frozenset(
                {"motion", "vectors"} | ({"frames"} if survey.picture_size else set())
            ),
            exactness="a dump of vectors has no residual",
            warnings=tuple(survey.warnings()),
            stream={"folder": str(folder)},
        )

    def frames(self, start: int = 0, stop: int | None = None) -> Iterator[InspectedFrame]:
        """Yield frames ``start`` to ``stop`` - 1.

        Raises:
            IndexError: If there are no such frames.
            BitstreamError: If a file changed since, or a picture does not decode; names it.
        """
        facts = self.facts
        chosen = frame_range(start, stop, num_frames=facts.num_frames, name=facts.name)
        return self._inspected(chosen.start, chosen.stop)

    def _inspected(self, start: int, stop: int) -> Iterator[InspectedFrame]:
        width, height = self.facts.coded_size
        for index, frame in enumerate(islice(read_dump(self._folder), start, stop), start=start):
            motion = _rasterise(frame.vectors, size=(width, height), num_lists=self.facts.num_lists)
            yield InspectedFrame(
                index=index,
                kind=self.facts.kinds[index],
                picture=self._picture(frame.picture_path),
                picture_of=index,
                motion=motion if isinstance(motion, BlockMotion) else None,
                vectors=frame.vectors,
                residual=None,
            )

    def _picture(self, path: Path | None) -> npt.NDArray[np.uint8] | None:
        if path is None:
            return None
        encoded = path.read_bytes()
        if _jpeg_size(encoded, path) != self.facts.display_rect[2:]:
            raise BitstreamError(f"{path}: has another size than the first picture of the dump")
        try:
            return decode_frame(encoded)
        except ValueError as error:
            raise BitstreamError(f"{path}: not a whole JPEG ({error})") from error


@dataclass(slots=True)
class _Survey:
    """What reading a whole dump once tells of it."""

    kinds: list[str] = field(default_factory=list)
    num_lists: int = 1
    reach: Size = (0, 0)
    """Where the blocks end."""
    picture_size: Size | None = None
    faults: dict[str, int] = field(default_factory=dict)
    """Frames whose vectors do not make a field, by reason."""

    def warnings(self) -> Iterator[str]:
        """Say what a user should know."""
        yield "a dump has no time stamps; times are numbers of frames"
        if self.picture_size is None:
            yield "a dump without pictures; its size is how far the vectors reach"
        if "?" in self.kinds:
            yield f"the kind of {self.kinds.count('?')} frames is not known"
        for reason, count in self.faults.items():
            yield f"{count} of {len(self.kinds)} frames have no motion field: {reason}"


def _survey(folder: Path, on_frames: Callable[[int], None]) -> _Survey:
    survey = _Survey()
    for index, frame in enumerate(read_dump(folder)):
        if index == 0 and frame.picture_path is not None:
            path = frame.picture_path
            survey.picture_size = _jpeg_size(path.read_bytes(), path)
        survey.kinds.append(_KINDS.get(frame.kind, frame.kind))
        if len(frame.vectors) and frame.vectors[:, COLUMN["source"]].max() >= 0:
            survey.num_lists = 2
        _check_sizes(frame.vectors, f"{folder}: frame {index}")
        reach = _reach(frame.vectors)
        size = whole_macroblocks(reach[0]), whole_macroblocks(reach[1])
        if max(size) > _LARGEST_SIDE:
            raise BitstreamError(
                f"{folder}: a block of frame {index} ends at {reach}, which no picture reaches"
            )
        motion = _rasterise(frame.vectors, size=size, num_lists=2)
        if isinstance(motion, str):
            survey.faults[motion] = survey.faults.get(motion, 0) + 1
        survey.reach = max(survey.reach[0], reach[0]), max(survey.reach[1], reach[1])
        if len(survey.kinds) % FRAMES_PER_BEAT == 0:
            on_frames(len(survey.kinds))
    if not survey.kinds:
        raise BitstreamError(f"{folder}: a dump of no frames")
    return survey


def _check_sizes(table: npt.NDArray[np.int32], where: str) -> None:
    """Refuse blocks that no decoder exports: what counts or outlines them relies on their size."""
    sizes = table[:, [COLUMN["w"], COLUMN["h"]]]
    is_wrong = ((sizes < 1) | (sizes > MACROBLOCK)).any(axis=1)
    if is_wrong.any():
        width, height = sizes[is_wrong.argmax()].tolist()
        raise BitstreamError(
            f"{where}: a block of {width} x {height} pixels; expected sides of 1 to {MACROBLOCK}"
        )


def _reach(table: npt.NDArray[np.int32]) -> Size:
    """Return where the blocks of a (K, 10) table end, 0 without blocks."""
    column = {name: table[:, number].astype(np.int64) for name, number in COLUMN.items()}
    ends = (column["dst_x"] + column["w"] // 2, column["dst_y"] + column["h"] // 2)
    return int(ends[0].max(initial=0)), int(ends[1].max(initial=0))


def _rasterise(table: npt.NDArray[np.int32], *, size: Size, num_lists: int) -> BlockMotion | str:
    """Return the field of a (K, 10) table, or why it makes none."""
    try:
        return rasterise_vectors(
            records_from_table(table),
            coded_width=size[0],
            coded_height=size[1],
            num_lists=num_lists,
        )
    except BitstreamError as error:
        # Without the vector, so that frames with the same fault are counted together.
        return str(error).partition(" (vector ")[0]


def _jpeg_size(encoded: bytes, path: Path) -> Size:
    try:
        height, width, _, _ = simplejpeg.decode_jpeg_header(encoded)
    except ValueError as error:
        raise BitstreamError(f"{path}: not a JPEG ({error})") from error
    if max(width, height) > _LARGEST_SIDE:
        raise BitstreamError(f"{path}: a picture of {width}x{height} is too large for a video")
    return int(width), int(height)
