"""Which file belongs to a row of a list: found by its stem, in any folder."""

import re
import unicodedata
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath

from gopstream.pipeline.annotations.request import ListRequest
from gopstream.pipeline.errors import AnnotationError
from gopstream.pipeline.object_store import is_address, is_web_address

_BESIDE_VIDEOS = frozenset(
    (
        ".json",
        ".txt",
        ".csv",
        ".jpg",
        ".png",
        ".webp",
        ".vtt",
        ".srt",
        ".wav",
        ".m4a",
        ".mp3",
        ".part",
        ".ytdl",
        ".npy",
        ".npz",
    )
)
"""Suffixes of what downloaders and toolboxes leave beside a video."""

_PICTURES = (".jpg", ".jpeg")

# ActivityNet's expected name of a video of YouTube, whose file may also be the bare identifier.
_ACTIVITYNET_STEM = re.compile(r"v_([A-Za-z0-9_-]{11})")

_SPLIT_FOLDERS = {
    "train": ("train", "training"),
    "val": ("val", "valid", "validate", "validation"),
    "test": ("test", "testing"),
}


@dataclass(frozen=True, slots=True)
class VideoFiles:
    """Files (or folders of pictures) by stem; names as they are, stems in Unicode's form C."""

    by_stem: Mapping[str, Sequence[str]]

    def find(self, stem: str, *, folders: Sequence[Collection[str]] = ()) -> str | None:
        """Return the name of the file with a stem, None without one.

        Args:
            stem: File name without its suffix.
            folders: Preferences for the case of several files, the strongest first: names of
                folders that the file should be below.

        Raises:
            AnnotationError: If several files remain.
        """
        found = self.candidates(stem)
        for wanted in folders:
            if len(found) > 1:
                inside = [name for name in found if set(wanted) & set(name.split("/")[:-1])]
                found = inside or found
        if len(found) > 1:
            raise AnnotationError(
                f"two files could be {stem}: {found[0]} and {found[1]}; give the folder of one of "
                f"them as VIDEOS, or move one away"
            )
        return found[0] if found else None

    def candidates(self, stem: str) -> list[str]:
        """Return the names of all files with a stem that may be videos."""
        return [name for name in self._with_stem(stem) if not _is_beside_videos(name)]

    def find_exactly(self, name: str) -> str | None:
        """Return the name of the file at a path, None without one."""
        wanted = _composed(name)
        return next((it for it in self._with_stem(_stem(name)) if _composed(it) == wanted), None)

    def _with_stem(self, stem: str) -> Sequence[str]:
        return self.by_stem.get(_composed(stem), ())


def index_files(request: ListRequest) -> VideoFiles:
    """List the files below the videos' root."""
    return _index((_stem(name), name) for name in request.list_files(request.videos))


def index_files_if_listable(request: ListRequest) -> VideoFiles | None:
    """List the files below the root; None for a web server, which cannot be listed."""
    return None if is_web_address(request.videos) else index_files(request)


def index_picture_folders(request: ListRequest) -> VideoFiles:
    """List the folders that hold JPEG pictures."""
    folders = _picture_folders(request.list_files(request.videos))
    return _index((_folder_name(name), name) for name in folders)


def elsewhere(found: str | None, name: str) -> str | None:
    """Return where a video was found if that is not its name, as ``VideoRecord.path`` has it."""
    return None if found == name else found


def find_again(
    names: Sequence[str], files: Sequence[str], *, picture_folders: bool = False
) -> dict[str, str]:
    """Find the videos of a list that have arrived, in any folder, since it was read.

    Nothing is found for a name that shares its stem with another: in a list of paths, ``a/1.mp4``
    is not ``b/1.mp4``. Hence ``names`` should be all of a list, those that are there too.

    Args:
        names: As records have them; repeats do not count.
        files: All files below the videos' root, with forward slashes.
        picture_folders: Whether the videos are folders of JPEG pictures.

    Returns:
        For each name without a file of its own (such a folder), the one file with its stem (the
        one folder of its last part), as :attr:`VideoRecord.path`. Left out are names for which
        there is none or several, and whole addresses.
    """
    asked = set(names)
    there = _picture_folders(files) if picture_folders else files
    stem_of = _folder_name if picture_folders else _stem
    stems = Counter(_composed(stem_of(name)) for name in asked)
    index = _index((stem_of(name), name) for name in there if name not in asked)
    found = {}
    for name in sorted(asked.difference(there)):
        stem = stem_of(name)
        if is_address(name) or stems[_composed(stem)] > 1:
            continue
        bare = _ACTIVITYNET_STEM.fullmatch(stem)
        fitting = index.candidates(stem) or (index.candidates(bare[1]) if bare else [])
        if len(fitting) == 1:
            found[name] = fitting[0]
    return found


def split_folders(split: str) -> tuple[str, ...]:
    """Return the names that a folder with the videos of a split may have."""
    names = _SPLIT_FOLDERS.get(split, (split,))
    return (*names, *(f"videos_{name}" for name in names))


def _index(pairs: Iterable[tuple[str, str]]) -> VideoFiles:
    by_stem: dict[str, tuple[str, ...]] = {}
    for stem, name in pairs:
        key = _composed(stem)
        by_stem[key] = (*by_stem.get(key, ()), name)
    return VideoFiles(by_stem)


def _picture_folders(files: Iterable[str]) -> list[str]:
    folders = {name.rpartition("/")[0] for name in files if name.lower().endswith(_PICTURES)}
    return sorted(folders - {""})


def _folder_name(name: str) -> str:
    return name.rpartition("/")[2]


def _stem(name: str) -> str:
    last = name[name.rfind("/") + 1 :]
    dot = last.rfind(".")
    return last[:dot] if dot > 0 else last


def _composed(text: str) -> str:
    # A Mac stores an accented letter as two characters where a list has one.
    return text if text.isascii() else unicodedata.normalize("NFC", text)


def _is_beside_videos(name: str) -> bool:
    return PurePosixPath(name).suffix.lower() in _BESIDE_VIDEOS
