"""Ask for parts of a sample; later check their bytes and decompress them."""

import json
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from gopstream.shards.byte_ranges import ByteRanges, Pending
from gopstream.shards.errors import DamageError, ShardError
from gopstream.shards.layout import JSON_MEMBER, RESIDUAL_JSON_MEMBER
from gopstream.shards.sample_parts import (
    Buffer,
    MotionWindow,
    Part,
    SampleRow,
    chunk_parts,
    decode_exceptions,
    decode_motion,
    decode_residual,
    first_of_gop,
    jpeg_parts,
    member_part,
)


class Wanted(NamedTuple):
    """Which parts of a sample are to be read."""

    sample: int
    jpegs: npt.NDArray[np.integer[Any]] | None = None
    """(J,) positions among its stored JPEGs (not frame indices)."""
    motion: tuple[int, int] | None = None
    """First and last frame."""
    residual: tuple[int, int] | None = None
    """First and last frame."""
    from_intra: bool = False
    """Whether residual and motion begin at the I-frame before, so that the frames of the residual
    can be rebuilt."""
    json: bool = False
    """Whether the sample's json is wanted."""


class Fetched(NamedTuple):
    """The parts of a sample that were asked for; the others are empty."""

    jpegs: list[Buffer]
    motion: MotionWindow | None
    residual: npt.NDArray[np.uint8] | None
    """(N, Hc * 3 / 2 * Wc) modulo 256."""
    exceptions: npt.NDArray[np.int64]
    """(E, 5) frame, plane, row, column and value of a residual beyond eight bits."""
    first_residual: int
    """Frame of the first residual."""
    json: dict[str, Any] | None
    """The sample's json."""


class PendingSample:
    """A sample's parts on their way."""

    def __init__(self, ranges: ByteRanges, row: SampleRow, *, wanted: Wanted, where: str) -> None:
        """Ask for them.

        Args:
            ranges: Of the dataset.
            row: The sample.
            wanted: Its parts.
            where: Its name, for messages.
        """
        if wanted.from_intra:
            wanted = _from_intra(row, wanted)
        jpegs = [] if wanted.jpegs is None else jpeg_parts(row, wanted.jpegs)
        motion = [] if wanted.motion is None else _motion_parts(row, wanted.motion)
        residual = []
        if wanted.residual is not None:
            residual = chunk_parts(row, "residual", *wanted.residual)
            residual.append(member_part(row, RESIDUAL_JSON_MEMBER))
        facts = [member_part(row, JSON_MEMBER)] if wanted.json else []
        self._bounds = (len(jpegs), len(jpegs) + len(motion))
        self._parts = [*jpegs, *motion, *residual, *facts]
        self._ranges, self._row, self._wanted, self._where = ranges, row, wanted, where
        self._pending = ranges.start([part.span for part in self._parts])

    def result(self) -> Fetched:
        """Return the parts, checked and decompressed; JPEGs are as they were stored.

        Raises:
            DamageError: If bytes are missing or differ from their checksum; names shard and key.
            ShardError: If object storage does not give them; names shard and key.
        """
        contents = checked_contents(self._ranges, self._parts, self._pending, where=self._where)
        wanted = self._wanted
        facts = _decode_json(self._row, contents.pop()) if wanted.json else None
        first, second = self._bounds
        motion = residual = None
        exceptions, first_residual = np.empty((0, 5), np.int64), 0
        if wanted.motion is not None:
            motion = decode_motion(self._row, *wanted.motion, contents[first:second])
        if wanted.residual is not None:
            residual = decode_residual(self._row, *wanted.residual, contents[second:-1])
            exceptions = decode_exceptions(self._row, contents[-1])
            first_residual = wanted.residual[0]
        return Fetched(contents[:first], motion, residual, exceptions, first_residual, facts)


def _from_intra(row: SampleRow, wanted: Wanted) -> Wanted:
    """Return what is wanted with motion and residual from the I-frame before on."""
    assert wanted.motion is not None and wanted.residual is not None
    start = first_of_gop(row, wanted.residual[0])
    return wanted._replace(
        motion=(min(start, wanted.motion[0]), wanted.motion[1]),
        residual=(start, wanted.residual[1]),
    )


def _decode_json(row: SampleRow, content: Buffer) -> dict[str, Any]:
    """Return a sample's json.

    Raises:
        DamageError: If it is none.
    """
    try:
        loaded = json.loads(bytes(content))
    except ValueError as error:
        raise DamageError(f"shard {row.shard}, {row.key}: {JSON_MEMBER}: {error}") from error
    if not isinstance(loaded, dict):
        raise DamageError(f"shard {row.shard}, {row.key}: {JSON_MEMBER} is no object")
    return loaded


def _motion_parts(row: SampleRow, frames: tuple[int, int]) -> list[Part]:
    return chunk_parts(row, "motion", *frames) + chunk_parts(row, "coverage", *frames)


def checked_contents(
    ranges: ByteRanges, parts: Sequence[Part], pending: Pending, *, where: str
) -> list[Buffer]:
    """Wait for the bytes of parts and compare them with their checksums.

    What does not match is read once more, without the copy that a cache may hold of its file.

    Args:
        ranges: Of the dataset.
        parts: What was asked for.
        pending: The asking.
        where: Shard and key, for messages.

    Raises:
        DamageError: If bytes are missing or differ from their checksum.
        ShardError: If object storage does not give them.
    """
    contents = _wait(pending, where)
    wrong = [number for number, part in enumerate(parts) if not part.is_intact(contents[number])]
    if wrong:
        # Also where no copy is forgotten now: another clip may have done so since these bytes were
        # taken from it.
        for name in {parts[number].span.name for number in wrong}:
            ranges.forget(name)
        again = _wait(ranges.start([parts[number].span for number in wrong]), where)
        for number, content in zip(wrong, again, strict=True):
            contents[number] = content
        wrong = [number for number in wrong if not parts[number].is_intact(contents[number])]
    if wrong:
        part = parts[wrong[0]]
        raise DamageError(
            f"{where}: {part.what} is damaged ({part.span.length} bytes at {part.span.offset} of "
            f"{part.span.name} do not match their checksum); run 'gopstream verify' to see all "
            "faults"
        )
    return contents


def _wait(pending: Pending, where: str) -> list[Buffer]:
    try:
        return pending.result()
    except (DamageError, FileNotFoundError) as error:
        raise DamageError(f"{where}: {error}") from error
    except OSError as error:
        raise ShardError(f"{where}: {error}") from error
