"""A sample of a dataset as the inspector sees it; only what is looked at is read."""

from collections.abc import Iterator
from functools import cache, cached_property
from typing import Any, Final

import av
import av.codec.codec
import numpy as np
import numpy.typing as npt

from gopstream.jobs.inspection.frame_range import frame_range
from gopstream.jobs.inspection.inspected import ClipFacts, InspectedFrame, SignedResidual
from gopstream.pipeline.grid import BlockMotion
from gopstream.pipeline.jpeg import decode_frame
from gopstream.shards.errors import DamageError
from gopstream.shards.index import BIDIRECTIONAL_FRAME, DAMAGED, INTRA_FRAME, SCENE_CUT
from gopstream.shards.reader import ShardDataset
from gopstream.shards.sample_parts import signed_residual
from gopstream.shards.sample_reading import Fetched, Wanted

_MOST_FRAMES: Final = 64
"""Frames whose motion is read at once at most; native samples are compressed by as many."""


class SampleClip:
    """One sample of a split."""

    def __init__(self, dataset: ShardDataset, position: int) -> None:
        """Look up a sample; reads the index of its shard.

        Args:
            dataset: The split.
            position: Of the sample in it.

        Raises:
            IndexError: If there is no such sample.
            ShardError: If the index cannot be read.
        """
        self._dataset = dataset
        self._position = position
        self._sample = dataset.sample(position)
        self._flags = dataset.frame_flags(position)

    @cached_property
    def facts(self) -> ClipFacts:
        """What the index and the sample's json say.

        Raises:
            DamageError: If they do not say it, or not the same.
        """
        sample, content = self._sample, self._content
        try:
            seconds = float(content["time_base"][0]) / float(content["time_base"][1])
            facts = ClipFacts(
                name=f"{self._dataset.split}/{self._dataset.key(self._position)}",
                source="sample",
                mode=content["settings"]["mode"],
                kinds=_kinds(self._flags),
                times=np.array(content["pts"], np.float64) * seconds,
                coded_size=sample.coded_size,
                display_rect=sample.display_rect,
                num_lists=int(content["planes"]["motion"]["shape"][1]),
                planes=self._planes(),
                exactness=str(content["exactness"]),
                damaged_frames=_frames_with(self._flags, DAMAGED),
                scene_cuts=_frames_with(self._flags, SCENE_CUT),
                warnings=tuple(map(str, content["warnings"])),
                label=self._label(),
                stream=self._stream_facts(),
            )
        except (LookupError, TypeError, ValueError, AttributeError, ArithmeticError) as error:
            raise self._damage(f"its json is not that of a sample ({error!r})") from error
        if len(facts.times) != facts.num_frames:
            raise self._damage(f"{len(facts.times)} time stamps for {facts.num_frames} frames")
        return facts

    def frames(self, start: int = 0, stop: int | None = None) -> Iterator[InspectedFrame]:
        """Yield frames ``start`` to ``stop`` - 1; reads a GOP at a time.

        Raises:
            IndexError: If there are no such frames.
            ShardError: If the sample cannot be read.
        """
        facts = self.facts
        chosen = frame_range(start, stop, num_frames=facts.num_frames, name=facts.name)
        return self._inspected(chosen.start, chosen.stop)

    def _inspected(self, start: int, stop: int) -> Iterator[InspectedFrame]:
        shown: tuple[int, npt.NDArray[np.uint8]] | None = None
        while start < stop:
            last = self._last_of_group(start, stop)
            stored = self._stored_from(start, last)
            fetched = self._fetch(start, last, stored=stored)
            frames = self._sample.frame_index_of_jpeg[stored].tolist()
            for index in range(start, last + 1):
                if frames and frames[0] <= index:
                    shown = frames.pop(0), self._decode(fetched.jpegs.pop(0), index)
                yield self._inspect(index, fetched, shown=shown)
            start = last + 1

    def _last_of_group(self, start: int, stop: int) -> int:
        """Return the last frame to be read together with ``start``: at most the rest of its GOP."""
        end = min(stop, start + _MOST_FRAMES)
        later = np.flatnonzero(self._flags[start + 1 : end] & INTRA_FRAME)
        return start + int(later[0]) if later.size else end - 1

    def _stored_from(self, start: int, last: int) -> npt.NDArray[np.int64]:
        """Return the positions of the JPEGs that are shown from frame ``start`` to ``last``."""
        stored = self._sample.frame_index_of_jpeg
        # Where the first frame has none of its own, the one before it is shown.
        first = max(0, int(np.searchsorted(stored, start, side="right")) - 1)
        return np.arange(first, int(np.searchsorted(stored, last, side="right")))

    def _fetch(self, start: int, last: int, *, stored: npt.NDArray[np.int64]) -> Fetched:
        has_residual = self._dataset.has_residual(self._position)
        wanted = Wanted(
            self._position,
            jpegs=stored if len(stored) else None,
            motion=(start, last),
            residual=(start, last) if has_residual else None,
        )
        return self._dataset.start(wanted).result()

    def _inspect(
        self, index: int, fetched: Fetched, *, shown: tuple[int, npt.NDArray[np.uint8]] | None
    ) -> InspectedFrame:
        window = fetched.motion
        assert window is not None
        row = index - window.first_frame
        return InspectedFrame(
            index=index,
            kind=self.facts.kinds[index],
            picture=None if shown is None else shown[1],
            picture_of=index if shown is None else shown[0],
            motion=BlockMotion(window.motion[row], window.coverage[row]),
            vectors=None,
            residual=self._residual(index, fetched),
        )

    def _residual(self, index: int, fetched: Fetched) -> SignedResidual | None:
        if fetched.residual is None:
            return None
        row = index - fetched.first_residual
        planes = signed_residual(
            fetched.residual[row : row + 1],
            fetched.exceptions,
            first_frame=index,
            frames=np.zeros(1, np.int64),
            coded_size=self._sample.coded_size,
        )
        return SignedResidual(*(plane[0] for plane in planes))

    def _decode(self, jpeg: bytes | memoryview, index: int) -> npt.NDArray[np.uint8]:
        try:
            return decode_frame(jpeg)
        except ValueError as error:
            raise self._damage(f"the JPEG shown at frame {index} does not decode") from error

    def _planes(self) -> frozenset[str]:
        planes = {"motion"}
        if len(self._sample.frame_index_of_jpeg):
            planes.add("frames")
        if self._dataset.has_residual(self._position):
            planes.add("residual")
        return frozenset(planes)

    def _label(self) -> str | None:
        label = self._dataset.label(self._position)
        return None if label < 0 else self._dataset.classes[label]

    @cached_property
    def _content(self) -> dict[str, Any]:
        return self._dataset.read_json(self._position)

    def _stream_facts(self) -> dict[str, Any]:
        """Return where the sample is and comes from, in plain values."""
        content = self._content
        facts: dict[str, Any] = {
            "dataset": self._dataset.root,
            "split": self._dataset.split,
            "key": self._dataset.key(self._position),
            "position": self._position,
            "frames_per_second": content.get("fps"),
            "first_frame_in_video": content.get("first_frame"),
            "frame_size": list(self._sample.frame_size),
            "stored_frames": len(self._sample.frame_index_of_jpeg),
        }
        for part in ("source", "settings", "attributes"):
            facts |= {f"{part}_{name}": value for name, value in content.get(part, {}).items()}
        if "source_codec" in facts:
            facts["source_codec"] = codec_name(str(facts["source_codec"]))
        return {name: value for name, value in facts.items() if value is not None}

    def _damage(self, what: str) -> DamageError:
        return DamageError(f"{self._dataset.name_of(self._position)}: {what}")


@cache
def codec_name(name: str) -> str:
    """Return what a codec is called of which samples may name the decoder, such as libdav1d."""
    try:
        return av.Codec(name, "r").canonical_name
    except av.codec.codec.UnknownCodecError:
        return name  # of a dataset that another FFmpeg made


def _kinds(flags: npt.NDArray[np.uint8]) -> str:
    """Return a letter per frame."""
    is_intra, is_bidirectional = flags & INTRA_FRAME != 0, flags & BIDIRECTIONAL_FRAME != 0
    return "".join(np.where(is_intra, "I", np.where(is_bidirectional, "B", "P")).tolist())


def _frames_with(flags: npt.NDArray[np.uint8], bit: int) -> tuple[int, ...]:
    return tuple(np.flatnonzero(flags & bit).tolist())
