"""The sequential road: whole shards, read from front to back with plain webdataset.

For pipelines that are built on webdataset, and for what is read once. It has no state, no index
and no equal batches; :class:`gopstream.shards.loading.loader.StreamingLoader` has.

webdataset itself says nothing where a shard ends early or a header is damaged, and never looks at
content. Here each shard must end as a tar ends, each sample must have the members that its json
names, and each piece must match its crc32.
"""

import json
import re
import shutil
import tarfile
import tempfile
import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import IO, Any, Final, NamedTuple, Self

import numpy as np
import numpy.typing as npt
import simplejpeg
from webdataset.gopen import Pipe, gopen
from webdataset.pipeline import DataPipeline
from webdataset.shardlists import SimpleShardList, expand_urls, split_by_node, split_by_worker
from webdataset.tariterators import group_by_keys, tar_file_iterator

from gopstream.pipeline.object_store import is_address, local_path
from gopstream.shards.dataset_files import check_format
from gopstream.shards.encoding import decode_chunk
from gopstream.shards.errors import DamageError, FormatError, ShardError
from gopstream.shards.layout import JSON_MEMBER, LABEL_MEMBER

SEQUENTIAL_PLANES: Final = ("frames", "motion", "coverage")

_END_BYTES: Final = 2 * tarfile.BLOCKSIZE
_READ_BYTES: Final = 1 << 20
_BUFFER_BYTES: Final = 8192
# What fetches an address; its last words are the reason when it fails. Patience as webdataset's.
_CURL: Final = (
    *("curl", "--fail", "--silent", "--show-error", "--location"),
    *("--connect-timeout", "30", "--retry", "30", "--retry-delay", "2"),
)
_AWS: Final = ("aws", "s3", "cp", "--only-show-errors")
# Status of a command whose reader has left before the end: of the shell, and of curl.
_READER_LEFT: Final = (141, 23)
_ABSENT: Final = re.compile(r"error: 404\b|\(404\)|\(NoSuch(Key|Bucket)\)")


class StreamedSample(NamedTuple):
    """One sample of a shard; what was not asked for is None."""

    key: str
    label: int
    """Class index, -1 without one."""
    json: dict[str, Any]
    """Sizes, frame types, time stamps and more: see ``docs/shards.md``."""
    frames: list[bytes] | npt.NDArray[np.uint8] | None
    """The stored frames: one JPEG each, or decoded (J, H, W, 3) RGB. The json's
    ``frame_index_of_jpeg`` says which frames of the video they are."""
    motion: npt.NDArray[np.int16] | None
    """(T, L, Hb, Wb, 2) quarter pixels of the coded picture, (dx, dy) to the source."""
    coverage: npt.NDArray[np.uint8] | None
    """(T, L, Hb, Wb): 1 where a block is predicted."""
    url: str
    """The shard it is from."""


def read_shards(
    urls: str | Path | Sequence[str | Path],
    *,
    planes: Sequence[str] = SEQUENTIAL_PLANES,
    decode_frames: bool = False,
    seed: int | None = None,
) -> DataPipeline:
    """Read shards from front to back, as webdataset does.

    Args:
        urls: Tars of a split, side tars not among them: paths, ``http(s)://`` (with ``curl``),
            ``s3://`` (with AWS's own command line, ``aws``), ``pipe:COMMAND``; braces are
            expanded, as in ``train/{000000..000127}.tar``; there are no patterns with ``*``. A
            ``pipe:`` runs in a shell: take none from strangers.
        planes: What to decode, of ``frames``, ``motion``, ``coverage``; by default all of them.
        decode_frames: Decode the frames to arrays; otherwise they stay JPEGs.
        seed: Of the order of the shards, None keeps it. Give another one in each epoch.

    Returns:
        A webdataset pipeline of :class:`StreamedSample`: iterate over it, give it to a
        ``DataLoader`` with ``batch_size=None``, or go on with further stages, as in
        ``.compose(webdataset.shuffle(100))``. Shards are divided among ranks and workers by
        webdataset's ``split_by_node`` and ``split_by_worker``: a worker beyond the number of
        shards gets none.

    Raises:
        ValueError: If there are no shards, one is a folder or a pattern, or a plane is unknown.
            Iterating raises FileNotFoundError for a missing file, ShardError if a shard cannot be
            fetched or lacks a plane, and DamageError if it is cut or damaged; both name the shard.
    """
    if isinstance(planes, str):
        raise ValueError(
            f"planes must be a sequence such as ({planes!r},); got the text {planes!r}"
        )
    unknown = [plane for plane in planes if plane not in SEQUENTIAL_PLANES]
    if unknown:
        raise ValueError(f"planes must be of {', '.join(SEQUENTIAL_PLANES)}; got {unknown[0]!r}")
    given = [urls] if isinstance(urls, (str, Path)) else urls
    names = [name for url in given for name in expand_urls(str(url))]
    if not names:
        raise ValueError("there are no shards to read")
    for name in names:
        _check_name(name)
    decode = partial(_decode_all, planes=tuple(planes), decode_frames=decode_frames)
    shards = SimpleShardList(names, seed=seed)
    return DataPipeline(shards, split_by_node, split_by_worker, _members, _samples, decode)


def _check_name(name: str) -> None:
    """Refuse what webdataset would take for the name of a tar, and fail at without saying why."""
    # A tar costs no look at the disk: there may be many.
    if name.startswith("pipe:") or name.endswith(".tar") and not _is_pattern(name):
        return
    if not is_address(name) and local_path(name).is_dir():
        raise ValueError(
            f"{name}: a folder; name its tars, with braces for many: {name.rstrip('/')}/"
            "{000000..000127}.tar in the folder of a split"
        )
    if _is_pattern(name) and (is_address(name) or not local_path(name).exists()):
        raise ValueError(
            f"{name}: a pattern; name the tars, with braces for many, as in "
            "train/{000000..000127}.tar, or give a list, such as sorted(Path('train').glob("
            "'??????.tar'))"
        )


def _is_pattern(name: str) -> bool:
    # A web address may have a query, and brackets for its host.
    return "*" in name or not is_address(name) and ("?" in name or "[" in name)


def _members(shards: Iterable[Mapping[str, str]]) -> Iterator[dict[str, Any]]:
    """Yield the members of each shard, and an empty one at its end, as webdataset's stages do."""
    for shard in shards:
        url = shard["url"]
        with _ShardStream(url) as stream:
            num_bytes = 0
            try:
                for member in tar_file_iterator(stream):
                    num_bytes += tarfile.BLOCKSIZE + _padded(len(member["data"]))
                    yield member | {"__url__": url}
                stream.finish(num_bytes)
            except (tarfile.TarError, OSError) as error:
                raise stream.fault(error) from error
        yield {}


def _samples(members: Iterable[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    try:
        yield from group_by_keys(members)
    except ShardError:
        raise
    except ValueError as error:  # a member comes twice
        raise DamageError(f"a shard is damaged: {error.args[0]}") from error


def _decode_all(
    samples: Iterable[dict[str, Any]], *, planes: tuple[str, ...], decode_frames: bool
) -> Iterator[StreamedSample]:
    for sample in samples:
        where = f"shard {sample['__url__']}, sample {sample['__key__']}"
        try:
            yield _decode(sample, where, planes=planes, decode_frames=decode_frames)
        except ShardError:
            raise
        except (KeyError, TypeError, ValueError, IndexError) as error:
            raise DamageError(f"{where}: its json does not describe it: {error!r}") from error


def _decode(
    sample: dict[str, Any], where: str, *, planes: tuple[str, ...], decode_frames: bool
) -> StreamedSample:
    content = _checked_json(sample, where)
    held = content["planes"]
    for plane in planes:
        if plane not in held:
            rest = tuple(other for other in planes if other in held)
            raise ShardError(f"{where}: there is no plane {plane!r}; leave it out: planes={rest!r}")
    label = int(sample[LABEL_MEMBER])
    if label != content["label"]:
        raise DamageError(f"{where}: cls says {label}, json says {content['label']}")
    frames: list[bytes] | npt.NDArray[np.uint8] | None = None
    if "frames" in planes:
        frames = _pieces(sample, held["frames"], "jpegs", f"{where}: frames")
        if len(frames) != len(content["frame_index_of_jpeg"]):
            raise DamageError(f"{where}: {len(frames)} JPEGs are not those that its json names")
        if decode_frames:
            frames = _decoded_frames(frames, content["frame_size"], where)
    arrays = {
        plane: _chunks(sample, held[plane], f"{where}: {plane}")
        for plane in ("motion", "coverage")
        if plane in planes
    }
    return StreamedSample(
        key=sample["__key__"],
        label=label,
        json=content,
        frames=frames,
        motion=arrays.get("motion"),
        coverage=arrays.get("coverage"),
        url=sample["__url__"],
    )


def _checked_json(sample: dict[str, Any], where: str) -> dict[str, Any]:
    """Return a sample's json, if the sample has all that it names."""
    if JSON_MEMBER not in sample:
        raise DamageError(
            f"{where}: there is no json; the shard is cut, or it is a side tar: give the main tars"
        )
    content: dict[str, Any] = json.loads(sample[JSON_MEMBER])
    check_format(content, where)
    if content["key"] != sample["__key__"]:
        raise DamageError(f"{where}: its json is that of {content['key']}")
    named = {LABEL_MEMBER, *(plane["member"] for plane in content["planes"].values())}
    missing = sorted(named - sample.keys())
    if missing:
        raise DamageError(f"{where}: {', '.join(missing)} is missing")
    return content


def _pieces(
    sample: Mapping[str, bytes], plane: Mapping[str, Any], name: str, where: str
) -> list[bytes]:
    """Cut a member by the table of its pieces, and check each of them."""
    member, table = sample[plane["member"]], plane[name]
    found = []
    for start, length, crc32 in zip(table["offset"], table["length"], table["crc32"], strict=True):
        piece = member[start : start + length]
        if len(piece) != length or zlib.crc32(piece) != crc32:
            raise DamageError(
                f"{where} are damaged: {length} bytes at {start} do not match their checksum"
            )
        found.append(piece)
    if sum(map(len, found)) != len(member):
        raise DamageError(f"{where}: {len(member)} bytes are not those that its json names")
    return found


def _chunks(sample: Mapping[str, bytes], plane: Mapping[str, Any], where: str) -> npt.NDArray[Any]:
    """Decompress a member chunk by chunk."""
    shape = tuple(plane["shape"])
    pieces = _pieces(sample, plane, "chunks", where)
    chunks = []
    for piece, num_frames in zip(pieces, plane["chunks"]["num_frames"], strict=True):
        try:
            one = decode_chunk(piece, dtype=plane["dtype"], shape=(num_frames, *shape[1:]))
        except FormatError as error:
            raise DamageError(f"{where}: {error}") from error
        chunks.append(one)
    whole = np.concatenate(chunks)
    if whole.shape != shape:
        raise DamageError(f"{where}: chunks of {len(whole)} frames, its json says {shape[0]}")
    return whole


def _decoded_frames(
    jpegs: Sequence[bytes], frame_size: Sequence[int], where: str
) -> npt.NDArray[np.uint8]:
    width, height = frame_size
    frames = np.empty((len(jpegs), height, width, 3), np.uint8)
    for number, jpeg in enumerate(jpegs):
        try:
            picture = simplejpeg.decode_jpeg(jpeg)
            if picture.shape != frames.shape[1:]:
                raise ValueError(
                    f"it is {picture.shape[1]}x{picture.shape[0]}, not {width}x{height}"
                )
            frames[number] = picture
        except ValueError as error:
            raise DamageError(f"{where}: JPEG {number} does not decode: {error}") from error
    return frames


class _ShardStream:
    """The bytes of a shard as webdataset opens them, watched: how many, and where zeros begin.

    There may be a process behind it; leaving the context ends that.
    """

    def __init__(self, url: str) -> None:
        self._url = url
        self._said: IO[bytes] = tempfile.TemporaryFile()  # noqa: SIM115 - closed in __exit__
        command = _command_for(url)
        self._stream = (
            gopen(url)
            if command is None
            else Pipe(
                command,
                mode="rb",
                bufsize=_BUFFER_BYTES,
                ignore_status=list(_READER_LEFT),
                stderr=self._said,
            )
        )
        self._num_bytes = 0
        self._num_used = 0
        self._at_end = False

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if isinstance(self._stream, Pipe) and not self._at_end:
            self._stream.proc.terminate()
        # What a process says of its end was asked before, where it counts.
        with suppress(OSError):
            self._stream.close()
        self._said.close()

    def read(self, size: int = -1) -> bytes:
        """Return up to ``size`` bytes, fewer only at the end."""
        content: bytes = self._stream.read(size)
        self._at_end = self._at_end or (size != 0 and not content)
        used = len(content.rstrip(b"\0"))
        if used:
            self._num_used = self._num_bytes + used
        self._num_bytes += len(content)
        return content

    def finish(self, num_bytes: int) -> None:
        """Check that the shard ends where its members do.

        Args:
            num_bytes: Of all members that were read, with headers and padding.

        Raises:
            DamageError: If it was cut, or there is more that could not be read.
            OSError: If the process that reads it failed.
        """
        while self.read(_READ_BYTES):
            pass
        self._stream.close()
        if self._num_used > num_bytes:
            raise DamageError(
                f"shard {self._url} is damaged: no member can be read from byte {num_bytes} on, "
                f"but data follows, up to byte {self._num_used}"
            )
        if self._num_bytes < num_bytes + _END_BYTES:
            raise DamageError(
                f"shard {self._url} is cut: it ends at byte {self._num_bytes}, without the end of "
                "a tar"
            )

    def fault(self, error: Exception) -> ShardError:
        """Return what an error of reading means for the user."""
        if isinstance(error, tarfile.TarError) and self._at_end:
            try:  # a process that failed is why the tar is cut
                self._stream.close()
            except OSError as failure:
                error = failure
        if isinstance(error, tarfile.TarError):
            # webdataset adds which object it was reading.
            reason = str(error).partition(" @ ")[0] or type(error).__name__
            return DamageError(f"shard {self._url} is cut or damaged: {reason}")
        self._said.seek(0)
        said = self._said.read().decode(errors="replace").strip().rpartition("\n")[2]
        if not said:
            return ShardError(f"shard {self._url} cannot be read: {error}")
        if _ABSENT.search(said):
            return ShardError(f"shard {self._url} was not found ({said})")
        return ShardError(f"shard {self._url} cannot be read: {said}")


def _command_for(url: str) -> list[str] | None:
    """Return the command that reads an address, None if webdataset opens it."""
    if url.startswith(("http://", "https://")):
        command = [*_CURL, url]
    elif url.startswith("s3://"):
        command = [*_AWS, url, "-"]
    else:
        return None
    if shutil.which(command[0]) is None:
        raise ShardError(
            f"{url}: such an address needs the command {command[0]!r}, which is not installed; or "
            "give another one as 'pipe:COMMAND', or use StreamingLoader, which needs none"
        )
    return command


def _padded(num_bytes: int) -> int:
    """Return a length in whole blocks of a tar."""
    return -(-num_bytes // tarfile.BLOCKSIZE) * tarfile.BLOCKSIZE
