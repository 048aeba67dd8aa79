"""Ways in which a finished dataset is damaged, for the proof that the loader notices each of them.

What a kind of damage must make unreadable is known before the loader is asked: bytes of files,
whole shards whose index is no good, or samples of which the index says nonsense.
"""

import json
import shutil
import zlib
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Final, NamedTuple

import numpy as np
import numpy.typing as npt
import simplejpeg

from gopstream.shards.byte_ranges import Span
from gopstream.shards.dataset_files import FileRecord
from gopstream.shards.index import (
    PIECE_PLANES,
    RESIDUAL_TAR,
    PieceTable,
    ShardIndex,
    index_bytes,
    load_index,
)
from gopstream.shards.layout import MANIFEST_FILE, index_name, tar_name
from gopstream.shards.local_storage import LocalStorage

SPLIT: Final = "train"
MEMBERS: Final = {
    "frames": "frames.mjpeg",
    "motion": "motion.zst",
    "coverage": "coverage.zst",
    "residual": "residual.zst",
    "residual.json": "residual.json",
    "cls": "cls",
    "json": "json",
}
"""Their names in a tar."""
_TO_THE_END: Final = 1 << 62


class Harm(NamedTuple):
    """What must be found unreadable; everything else must be as it was."""

    spans: tuple[Span, ...] = ()
    """Bytes; whatever needs one of them is unreadable."""
    shards: frozenset[str] = frozenset()
    """Names; nothing of them is readable."""
    samples: frozenset[str] = frozenset()
    """Keys."""
    moves_positions: bool = False
    """Whether the dataset then has another number of samples, and so another order."""
    is_refused: bool = False
    """Whether the dataset cannot be opened at all."""


@dataclass(frozen=True, slots=True)
class Victim:
    """The shard that is damaged, and its sample."""

    root: Path
    """Of the dataset."""
    shard: str
    other: str
    """Another shard, with as many samples."""
    number: int
    """Of the sample, in its shard."""

    def path(self, kind: str) -> Path:
        """Return one of the shard's files: ``tar``, ``residual.tar`` or ``index.npz``."""
        return self.root / SPLIT / f"{self.shard}.{kind}"

    @property
    def index(self) -> ShardIndex:
        """The shard's index, as it is now."""
        return load_index(LocalStorage(self.root), f"{SPLIT}/{index_name(self.shard)}")

    @property
    def key(self) -> str:
        """Of the sample."""
        return str(self.index.keys[self.number].decode())

    def rows(self, plane: str) -> slice:
        """Return the sample's rows of a plane's table."""
        start, end = self.index.table(plane).start[self.number : self.number + 2].tolist()
        return slice(start, end)

    def member(self, suffix: str) -> Span:
        """Return where a member of the sample is."""
        index = self.index
        names = [name.decode() for name in index.member_names.tolist()]
        kind = names.index(MEMBERS[suffix])
        (found,) = np.flatnonzero(
            (index.member_sample == self.number) & (index.member_kind == kind)
        ).tolist()
        residual = int(index.member_tar[found]) == RESIDUAL_TAR
        name = f"{SPLIT}/{tar_name(self.shard, 'residual' if residual else None)}"
        return Span(name, int(index.member_offset[found]), int(index.member_length[found]))


Damage = Callable[[Victim], Harm]


def damages() -> dict[str, Damage]:
    """Return all kinds of damage by name; each changes the files and says what it harms."""
    found: dict[str, Damage] = {}
    for suffix in MEMBERS:
        found[f"a flipped bit in {suffix}"] = partial(_flip, suffix=suffix)
    for suffix in ("frames", "motion", "residual"):
        found[f"cut at {suffix}"] = partial(_cut, suffix=suffix, share=0.0)
        found[f"cut inside {suffix}"] = partial(_cut, suffix=suffix, share=0.5)
    found |= {
        "an empty shard": _empty,
        "a deleted shard": partial(_delete, kind="tar"),
        "a deleted residual tar": partial(_delete, kind="residual.tar"),
        "a deleted index": _delete_index,
        "a flipped bit in the index": _flip_index,
        "a cut index": _cut_index,
        "an index of another shard": _swap_index,
        "shards that changed places": _swap_tars,
        "shards that changed places with their indexes": _swap_shards,
        "a JPEG of another size": _shrink_jpeg,
        "a cut manifest": _cut_manifest,
        "a flipped bit in the manifest's name of a shard": _rename_in_manifest,
        "a flipped bit in the manifest's number of samples": _recount_in_manifest,
    }
    return found | _hostile_indexes()


def _flip(victim: Victim, suffix: str) -> Harm:
    """Flip a bit in each piece of a member, and so in each that a clip may read."""
    member = victim.member(suffix)
    path = victim.root / member.name
    content = bytearray(path.read_bytes())
    spans = [member]
    if suffix in PIECE_PLANES:
        table, rows = victim.index.table(suffix), victim.rows(suffix)
        places = zip(table.offset[rows].tolist(), table.length[rows].tolist(), strict=True)
        spans = [Span(member.name, offset, length) for offset, length in places]
    for number, span in enumerate(spans):
        # Behind all headers: a decoder may take it for another picture.
        content[span.offset + span.length * 3 // 4] ^= 1 << number % 3
    path.write_bytes(content)
    return Harm(tuple(spans))


def _cut(victim: Victim, suffix: str, *, share: float) -> Harm:
    member = victim.member(suffix)
    end = member.offset + int(member.length * share)
    path = victim.root / member.name
    path.write_bytes(path.read_bytes()[:end])
    return Harm((Span(member.name, end, _TO_THE_END),))


def _empty(victim: Victim) -> Harm:
    victim.path("tar").write_bytes(b"")
    return Harm((_whole(victim, "tar"),))


def _delete(victim: Victim, kind: str) -> Harm:
    victim.path(kind).unlink()
    return Harm((_whole(victim, kind),))


def _whole(victim: Victim, kind: str) -> Span:
    return Span(f"{SPLIT}/{victim.shard}.{kind}", 0, _TO_THE_END)


def _delete_index(victim: Victim) -> Harm:
    victim.path("index.npz").unlink()
    return Harm(shards=frozenset([victim.shard]))


def _flip_index(victim: Victim) -> Harm:
    """Flip a bit of the sizes of frames, which nothing else would prove wrong."""
    path = victim.path("index.npz")
    content = bytearray(path.read_bytes())
    content[content.index(victim.index.frame_size.tobytes())] ^= 4
    path.write_bytes(content)
    return Harm(shards=frozenset([victim.shard]))


def _cut_index(victim: Victim) -> Harm:
    path = victim.path("index.npz")
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    return Harm(shards=frozenset([victim.shard]))


def _swap_index(victim: Victim) -> Harm:
    shutil.copy(_other(victim, "index.npz"), victim.path("index.npz"))
    return Harm(shards=frozenset([victim.shard]))


def _swap_tars(victim: Victim) -> Harm:
    """Exchange two tars of equal size; the rest of the larger one is zeros, as at a tar's end."""
    for kind in ("tar", "residual.tar"):
        paths = victim.path(kind), _other(victim, kind)
        first, second = (path.read_bytes() for path in paths)
        size = max(len(first), len(second))
        paths[0].write_bytes(second.ljust(size, b"\0"))
        paths[1].write_bytes(first.ljust(size, b"\0"))
    return Harm(shards=frozenset([victim.shard, victim.other]))


def _swap_shards(victim: Victim) -> Harm:
    """Exchange all files of two shards: each is whole, and not the one that the manifest names."""
    paths = victim.path("index.npz"), _other(victim, "index.npz")
    first, second = (path.read_bytes() for path in paths)
    paths[0].write_bytes(second)
    paths[1].write_bytes(first)
    return _swap_tars(victim)


def _other(victim: Victim, kind: str) -> Path:
    return victim.root / SPLIT / f"{victim.other}.{kind}"


def _shrink_jpeg(victim: Victim) -> Harm:
    """Put smaller pictures where the sample's JPEGs are, with checksums that are right."""
    index, rows = victim.index, victim.rows("frames")
    content = bytearray(victim.path("tar").read_bytes())
    small = simplejpeg.encode_jpeg(np.zeros((8, 8, 3), np.uint8), quality=50)
    lengths, checks = index.frames.length.copy(), index.frames.crc32.copy()
    for row in range(rows.start, rows.stop):
        start = int(index.frames.offset[row])
        assert len(small) <= lengths[row]
        content[start : start + len(small)] = small
        lengths[row], checks[row] = len(small), zlib.crc32(small)
    victim.path("tar").write_bytes(content)
    frames = replace(index.frames, length=lengths, crc32=checks)
    _write_index(victim, replace(index, frames=frames))
    return Harm(samples=frozenset([victim.key]))


def _cut_manifest(victim: Victim) -> Harm:
    path = victim.root / SPLIT / MANIFEST_FILE
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    return Harm(is_refused=True)


def _rename_in_manifest(victim: Victim) -> Harm:
    """Name another shard, which is there, a second time."""
    _change_in_manifest(victim, "name", victim.other)
    return Harm(is_refused=True)


def _recount_in_manifest(victim: Victim) -> Harm:
    _change_in_manifest(victim, "num_samples", len(victim.index.keys) ^ 1)
    return Harm(shards=frozenset([victim.shard]), moves_positions=True)


def _change_in_manifest(victim: Victim, field: str, value: object) -> None:
    path = victim.root / SPLIT / MANIFEST_FILE
    content = json.loads(path.read_text())
    (record,) = (record for record in content["shards"] if record["name"] == victim.shard)
    record[field] = value
    path.write_text(json.dumps(content))


def _hostile_indexes() -> dict[str, Damage]:
    """Return indexes that are whole and say what cannot be."""
    numbers: dict[str, tuple[str, str, int]] = {
        "an offset beyond the file": ("frames", "offset", 1 << 40),
        "a negative offset": ("frames", "offset", -512),
        "a negative length": ("motion", "length", -1),
        "a length beyond the file": ("coverage", "length", 1 << 40),
        "a length of nothing": ("residual", "length", 0),
        "negative frame numbers": ("frames", "first_frame", -3),
        "frame numbers beyond the end": ("frames", "first_frame", 1 << 30),
        "chunks that begin before the start": ("motion", "first_frame", -7),
        "chunks that begin behind the end": ("residual", "first_frame", 1 << 30),
        "chunks of a billion frames": ("motion", "num_frames", 1 << 30),
        "chunks of negative length": ("coverage", "num_frames", -1),
    }
    found: dict[str, Damage] = {
        f"hostile index: {name}": partial(_set_pieces, change=change)
        for name, change in numbers.items()
    }
    sizes: dict[str, tuple[str, Any]] = {
        "frames of four gigapixels": ("frame_size", [65_000, 65_000]),
        "frames beyond all bounds": ("frame_size", [1 << 30, 1 << 30]),
        "frames of negative size": ("frame_size", [-96, 64]),
        "frames of no size": ("frame_size", [0, 0]),
        "a coded size beyond all bounds": ("coded_size", [1 << 30, 1 << 30]),
        "a negative coded size": ("coded_size", [-96, -64]),
        "a part shown outside of the picture": ("display_rect", [1 << 20, 0, 96, 64]),
        "nothing shown": ("display_rect", [0, 0, 0, 0]),
        "a million lists": ("num_lists", 1_000_000),
        "negative lists": ("num_lists", -1),
    }
    return found | {
        f"hostile index: {name}": partial(_set_sample, change=change)
        for name, change in sizes.items()
    }


def _set_pieces(victim: Victim, change: tuple[str, str, int]) -> Harm:
    plane, column, value = change
    index = victim.index
    table: PieceTable = index.table(plane)
    values: npt.NDArray[Any] = getattr(table, column).copy()
    values[victim.rows(plane)] = value
    changed = {column: values}
    if (column, value) == ("length", 0):
        checks = table.crc32.copy()
        checks[victim.rows(plane)] = 0  # of no bytes
        changed["crc32"] = checks
    tables: dict[str, Any] = {plane: replace(table, **changed)}
    _write_index(victim, replace(index, **tables))
    return Harm(samples=frozenset([victim.key]))


def _set_sample(victim: Victim, change: tuple[str, Any]) -> Harm:
    name, value = change
    index = victim.index
    values = getattr(index, name).copy()
    values[victim.number] = value
    _write_index(victim, replace(index, **{name: values}))
    return Harm(samples=frozenset([victim.key]))


def _write_index(victim: Victim, index: ShardIndex) -> None:
    """Write an index that the manifest knows: nothing but its content is wrong."""
    content = index_bytes(index)
    victim.path("index.npz").write_bytes(content)
    files = json.loads((victim.root / SPLIT / MANIFEST_FILE).read_text())["shards"]
    (held,) = (record["files"] for record in files if record["name"] == victim.shard)
    held[index_name(victim.shard)] = asdict(FileRecord.of(content))
    _change_in_manifest(victim, "files", held)
