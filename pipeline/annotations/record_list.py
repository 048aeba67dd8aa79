"""Gathers the records of a list, with what holds for all of them together."""

from array import array
from collections.abc import Callable, Mapping, Sequence

import numpy as np

from gopstream.pipeline.annotations.record import VideoList, VideoRecord
from gopstream.pipeline.errors import AnnotationError

_MOST_SHOWN = 5


class RecordList:
    """Records and their places in the list."""

    def __init__(self, source: str, where: Callable[[int], str]) -> None:
        """Begin an empty list.

        Args:
            source: The list, for messages.
            where: Says a place, which is a number of the reader's choice, in words.
        """
        self._source = source
        self._where = where
        self._records: list[VideoRecord] = []
        self._places = array("q")
        self._missing: dict[str, None] = {}

    def add(self, record: VideoRecord, *, place: int, is_there: bool = True) -> None:
        """Add a record; ``is_there`` says whether its file was found."""
        self._records.append(record)
        self._places.append(place)
        if not is_there:
            self._missing[record.name] = None

    def finish(
        self,
        classes: Sequence[str],
        *,
        label_sets: Mapping[str, tuple[str, ...]] | None = None,
        notes: Sequence[str] = (),
    ) -> VideoList:
        """Return the list.

        Raises:
            AnnotationError: If it is empty, or names the same video or segment twice in a split.
        """
        if not self._records:
            raise AnnotationError(f"{self._source}: no videos")
        self._check_unique()
        return VideoList(
            records=tuple(self._records),
            classes=tuple(classes),
            label_sets=label_sets or {},
            missing=tuple(self._missing),
            notes=tuple(notes),
        )

    def _check_unique(self) -> None:
        # A set of five million keys would weigh more than the records; eight bytes each do not.
        hashes = np.fromiter((hash(_key(it)) for it in self._records), np.int64)
        order = np.argsort(hashes, kind="stable")
        repeated = np.zeros(len(hashes), np.bool_)
        repeated[1:] = hashes[order][1:] == hashes[order][:-1]
        suspects = set(hashes[order][repeated].tolist())
        first: dict[object, int] = {}
        for index in np.flatnonzero(np.isin(hashes, list(suspects))).tolist() if suspects else ():
            record = self._records[index]
            earlier = first.setdefault(_key(record), index)
            if earlier != index:
                raise AnnotationError(
                    f"{self._where(self._places[index])}: {say_segment(record)} is listed twice "
                    f"(first at {self._where(self._places[earlier])})"
                )


def say_segment(record: VideoRecord) -> str:
    """Return a record's name, with its times if it is a segment."""
    if record.start_seconds is None:
        return record.name
    end = "end" if record.end_seconds is None else f"{record.end_seconds:g}"
    return f"{record.name} [{record.start_seconds:g}, {end}] s"


def note(text: str, cases: Sequence[str]) -> tuple[str, ...]:
    """Return one line that counts some cases and names the first, nothing without any."""
    if not cases:
        return ()
    more = ", ..." if len(cases) > _MOST_SHOWN else ""
    return (f"{len(cases)} {text}: {', '.join(cases[:_MOST_SHOWN])}{more}",)


def _key(record: VideoRecord) -> tuple[object, ...]:
    return record.split, record.name, record.start_seconds, record.end_seconds
