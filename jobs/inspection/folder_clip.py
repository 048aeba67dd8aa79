"""A folder of ``gopstream extract`` as the inspector sees it; its arrays stay on disk."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from gopstream.jobs.errors import UserError
from gopstream.jobs.extract_files import CLIP_FILE
from gopstream.jobs.inspection.frame_range import frame_range
from gopstream.jobs.inspection.inspected import ClipFacts, InspectedFrame, SignedResidual
from gopstream.pipeline.errors import BitstreamError
from gopstream.pipeline.grid import BLOCK, BlockMotion
from gopstream.pipeline.jpeg import decode_frame

_MOST_JSON_BYTES: Final = 1 << 28
_RESIDUALS: Final = ("residual_y", "residual_cb", "residual_cr")


class FolderClip:
    """A video's plain files."""

    def __init__(self, folder: Path) -> None:
        """Read ``clip.json`` and the headers of the arrays.

        Args:
            folder: Of ``gopstream extract``.

        Raises:
            UserError: If the folder has no ``clip.json``.
            BitstreamError: If its files do not belong together; names the one at fault.
        """
        self._folder = folder
        content = _read_content(folder / CLIP_FILE)
        try:
            self.facts = _read_facts(folder, content)
            self._stored = _stored_frames(content, num_frames=self.facts.num_frames)
        except (KeyError, TypeError, ValueError, ArithmeticError) as error:
            if isinstance(error, BitstreamError):
                raise
            raise BitstreamError(
                f"{folder / CLIP_FILE}: not that of an extraction ({error!r}); extract the video "
                "again"
            ) from error
        width, height = self.facts.coded_size
        grid = (self.facts.num_frames, self.facts.num_lists, height // BLOCK, width // BLOCK)
        self._motion = _open_array(folder, "motion", (*grid, 2), dtype="<i2")
        self._coverage = _open_array(folder, "coverage", grid, dtype="|u1")
        self._residual: list[npt.NDArray[np.int16]] = []
        if "residual" in self.facts.planes:
            for name, halves in zip(_RESIDUALS, (1, 2, 2), strict=True):
                shape = (self.facts.num_frames, height // halves, width // halves)
                self._residual.append(_open_array(folder, name, shape, dtype="<i2"))

    def frames(self, start: int = 0, stop: int | None = None) -> Iterator[InspectedFrame]:
        """Yield frames ``start`` to ``stop`` - 1.

        Raises:
            IndexError: If there are no such frames.
            BitstreamError: If a picture does not decode; names it.
        """
        facts = self.facts
        chosen = frame_range(start, stop, num_frames=facts.num_frames, name=facts.name)
        return self._inspected(chosen.start, chosen.stop)

    def _inspected(self, start: int, stop: int) -> Iterator[InspectedFrame]:
        shown: tuple[int, npt.NDArray[np.uint8]] | None = None
        for index in range(start, stop):
            place = int(np.searchsorted(self._stored, index, side="right")) - 1
            stored = int(self._stored[place]) if place >= 0 else None
            if stored is not None and (shown is None or shown[0] != stored):
                shown = stored, self._picture(stored)
            yield InspectedFrame(
                index=index,
                kind=self.facts.kinds[index],
                picture=None if shown is None else shown[1],
                picture_of=index if shown is None else shown[0],
                motion=BlockMotion(np.array(self._motion[index]), np.array(self._coverage[index])),
                vectors=None,
                residual=self._residual_of(index),
            )

    def _residual_of(self, index: int) -> SignedResidual | None:
        if not self._residual:
            return None
        return SignedResidual(*(np.array(plane[index]) for plane in self._residual))

    def _picture(self, frame: int) -> npt.NDArray[np.uint8]:
        path = self._folder / "frames" / f"{frame:06d}.jpg"
        try:
            return decode_frame(path.read_bytes())
        except FileNotFoundError as error:
            raise BitstreamError(f"{path}: is missing; extract the video again") from error
        except ValueError as error:
            raise BitstreamError(f"{path}: not a whole JPEG; extract the video again") from error


def _read_facts(folder: Path, content: dict[str, Any]) -> ClipFacts:
    kinds = str(content["frame_types"])
    if not kinds or set(kinds) - set("IPB"):
        raise ValueError(f"frame_types {kinds[:20]!r}")
    planes = {"motion"} | ({"frames"} if content["frame_index_of_jpeg"] else set())
    if f"{_RESIDUALS[0]}.npy" in content["files"]:
        planes.add("residual")
    times = _open_array(folder, "pts", (len(kinds),), dtype="<i8")
    numerator, denominator = map(int, content["time_base"])
    coded_size = _pair(content["coded_size"])
    x, y, width, height = map(int, content["display_rect"])
    if (
        min(x, y, width - 1, height - 1) < 0
        or x + width > coded_size[0]
        or y + height > coded_size[1]
    ):
        raise ValueError(f"display_rect {content['display_rect']} outside of {coded_size}")
    return ClipFacts(
        name=str(content["video"]),
        source="folder",
        mode=content["mode"],
        kinds=kinds,
        times=times * (numerator / denominator),
        coded_size=coded_size,
        display_rect=(x, y, width, height),
        num_lists=_num_lists(folder),
        planes=frozenset(planes),
        exactness=str(content["exactness"]),
        damaged_frames=tuple(map(int, content["damaged_frames"])),
        scene_cuts=tuple(map(int, content["scene_cuts"])),
        warnings=tuple(map(str, content["warnings"])),
        stream={
            "folder": str(folder),
            "video": content["video"],
            "frames_per_second": content["fps"],
            "backend": content["backend"],
            "frame_size": content["frame_size"],
            "stored_frames": len(content["frame_index_of_jpeg"]),
        },
    )


def _stored_frames(content: dict[str, Any], *, num_frames: int) -> npt.NDArray[np.int64]:
    """Return (J,) the frames that have a JPEG, rising."""
    stored = np.array(content["frame_index_of_jpeg"], np.int64).reshape(-1)
    if stored.size and (stored[0] < 0 or stored[-1] >= num_frames or (np.diff(stored) <= 0).any()):
        raise ValueError(f"frame_index_of_jpeg {stored[:20].tolist()}")
    return stored


def _read_content(path: Path) -> dict[str, Any]:
    if not path.is_file():
        raise UserError(
            f"{path.parent}: no {CLIP_FILE}, which 'gopstream extract' writes last; extract the "
            "video again"
        )
    if path.stat().st_size > _MOST_JSON_BYTES:
        raise BitstreamError(f"{path}: too large to be that of an extraction")
    try:
        content = json.loads(path.read_bytes())
    except ValueError as error:
        raise BitstreamError(f"{path}: not valid JSON ({error})") from error
    if not isinstance(content, dict):
        raise BitstreamError(f"{path}: expected a JSON object, got {type(content).__name__}")
    return content


def _num_lists(folder: Path) -> int:
    shape = _map_array(folder / "coverage.npy").shape
    if len(shape) != 4 or shape[1] not in (1, 2):
        raise BitstreamError(
            f"{folder / 'coverage.npy'}: expected (T, 1 or 2, Hb, Wb), got {shape}"
        )
    return int(shape[1])


def _open_array(folder: Path, name: str, shape: tuple[int, ...], *, dtype: str) -> npt.NDArray[Any]:
    """Map an array of the folder, never with pickle.

    Raises:
        BitstreamError: If it is not there, not whole, or of another form.
    """
    path = folder / f"{name}.npy"
    array = _map_array(path)
    if array.shape != shape or array.dtype != np.dtype(dtype):
        raise BitstreamError(
            f"{path}: expected {shape} of {np.dtype(dtype)} by {CLIP_FILE}, got {array.shape} of "
            f"{array.dtype}; extract the video again"
        )
    return array


def _map_array(path: Path) -> npt.NDArray[Any]:
    try:
        array: npt.NDArray[Any] = np.load(path, mmap_mode="r", allow_pickle=False)
    except FileNotFoundError as error:
        raise BitstreamError(f"{path}: is missing; extract the video again") from error
    except (ValueError, EOFError) as error:
        raise BitstreamError(f"{path}: not a whole NumPy file ({error})") from error
    return array


def _pair(values: Any) -> tuple[int, int]:  # noqa: ANN401 - of a JSON file
    first, second = values
    return int(first), int(second)
