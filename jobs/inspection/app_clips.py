"""Frames of clips for the app, packed as the player reads them.

Clips are read forward. What was read last stays packed, within bounds, so that a player that asks
for frames in another order, or twice, does not make the source be decoded from its start.
"""

import json
from collections import OrderedDict
from collections.abc import Callable, Iterator
from threading import RLock
from typing import Any, Final

from gopstream.jobs.errors import UserError
from gopstream.jobs.inspection.clip_payload import clip_payload, frame_payload
from gopstream.jobs.inspection.frame_statistics import frame_statistics, statistics_content
from gopstream.jobs.inspection.inspected import ClipFacts, InspectedClip, InspectedFrame

_CLIPS_OPEN: Final = 4
_BYTES_KEPT: Final = 96 << 20
"""Of packed frames, of all clips together: some hundred of 340 x 256, a dozen of 1080p."""
_READ_ON: Final = 256
"""A frame so few ahead is reached by reading on; a farther one by going there."""
_NUMBERS_AT_ONCE: Final = 32
_PIXELS_AT_ONCE: Final = 4 << 20
_PACKED_ON_THE_WAY: Final = 12
"""So few frames that are read on the way to another are packed: they will be asked for next."""

ClipKey = tuple[str, int]
"""Split and position; see `app_target.ONE_CLIP` for a clip that is no sample."""


class OpenClips:
    """The clips that were looked at last. For several threads; they take turns."""

    def __init__(self, open_clip: Callable[[ClipKey], InspectedClip], *, lock: "RLock") -> None:
        """Name the way to open a clip.

        Args:
            open_clip: Called by one thread at a time.
            lock: Held while clips are read; whoever else reads what they read holds it too.
        """
        self._open_clip = open_clip
        self._lock = lock
        self._open: OrderedDict[ClipKey, _OpenClip] = OrderedDict()
        self._packed: OrderedDict[tuple[ClipKey, int], bytes] = OrderedDict()
        self._num_bytes = 0

    @property
    def num_bytes(self) -> int:
        """Of packed frames that are kept."""
        return self._num_bytes

    def facts(self, key: ClipKey) -> bytes:
        """Return the JSON that the player gets before it asks for frames.

        Raises:
            IndexError: If there is no such sample.
            PipelineError, ShardError, StoreError: If the clip cannot be read.
        """
        with self._lock:
            return pack_json(clip_payload(self._clip(key).facts))

    def frame(self, key: ClipKey, index: int) -> bytes:
        """Return one frame as JSON.

        Raises:
            IndexError: If there is no such sample or frame.
            PipelineError, ShardError, StoreError: If the clip cannot be read.
        """
        with self._lock:
            packed = self._packed.get((key, index))
            if packed is None:
                packed = self._read(key, index)
            else:
                self._packed.move_to_end((key, index))
            return packed

    def statistics(self, key: ClipKey, first: int) -> bytes:
        """Return the numbers of some frames from one on, as JSON; of how many, is in it.

        Few enough that who waits for a frame does not wait long.

        Raises:
            IndexError: If there is no such sample or frame.
            PipelineError, ShardError, StoreError: If the clip cannot be read.
        """
        with self._lock:
            clip = self._clip(key)
            self._check(clip, first)
            width, height = clip.facts.coded_size
            count = min(max(1, _PIXELS_AT_ONCE // (width * height)), _NUMBERS_AT_ONCE)
            last = min(first + count, clip.facts.num_frames) - 1
            numbers = [
                statistics_content(frame_statistics(frame))
                for index in range(first, last + 1)
                for frame in clip.numbers.read_to(index)
                if frame.index == index
            ]
            return pack_json({"first": first, "statistics": numbers})

    def close(self) -> None:
        """Let go of all clips."""
        with self._lock:
            while self._open:
                self._open.popitem()[1].close()
            self._packed.clear()
            self._num_bytes = 0

    def _clip(self, key: ClipKey) -> "_OpenClip":
        clip = self._open.get(key)
        if clip is None:
            clip = _OpenClip(self._open_clip(key))
            self._open[key] = clip
        self._open.move_to_end(key)
        while len(self._open) > _CLIPS_OPEN:
            self._open.popitem(last=False)[1].close()
        return clip

    def _read(self, key: ClipKey, index: int) -> bytes:
        clip = self._clip(key)
        self._check(clip, index)
        packed = b""
        for frame in clip.frames.read_to(index):
            # Of a long way only the end is packed.
            if index - frame.index <= _PACKED_ON_THE_WAY:
                packed = pack_json(frame_payload(frame, clip.facts))
                self._keep((key, frame.index), packed)
        assert packed, "read_to ends with the frame or raises"
        return packed

    def _check(self, clip: "_OpenClip", index: int) -> None:
        num_frames = clip.facts.num_frames
        if not 0 <= index < num_frames:
            raise IndexError(f"{clip.facts.name} has no frame {index}; it has {num_frames}")

    def _keep(self, place: tuple[ClipKey, int], packed: bytes) -> None:
        self._num_bytes += len(packed) - len(self._packed.pop(place, b""))
        self._packed[place] = packed
        while self._num_bytes > _BYTES_KEPT and len(self._packed) > 1:
            self._num_bytes -= len(self._packed.popitem(last=False)[1])


class _OpenClip:
    """A clip, and how far it was read: for pictures, and for numbers."""

    def __init__(self, clip: InspectedClip) -> None:
        self.facts: ClipFacts = clip.facts
        self.frames = _Cursor(clip)
        self.numbers = _Cursor(clip)

    def close(self) -> None:
        """Let go of the decoders."""
        self.frames.close()
        self.numbers.close()


class _Cursor:
    """Reads a clip forward, from wherever it is asked to."""

    def __init__(self, clip: InspectedClip) -> None:
        self._clip = clip
        self._frames: Iterator[InspectedFrame] = iter(())
        self._next = clip.facts.num_frames
        """Index of the frame that the iterator yields next; at its end, none."""

    def read_to(self, index: int) -> Iterator[InspectedFrame]:
        """Yield frames up to one; the first of them is wherever reading goes on."""
        if not 0 <= index - self._next <= _READ_ON:
            # Who steps back will step back further: the frames before it are read as well.
            is_step_back = 0 < self._next - index <= _PACKED_ON_THE_WAY
            self._start(max(0, index - _PACKED_ON_THE_WAY) if is_step_back else index)
        while self._next <= index:
            try:
                frame = next(self._frames, None)
            except BaseException:
                self.close()  # an iterator that has failed is at its end
                raise
            if frame is None:
                self.close()
                name = self._clip.facts.name
                raise UserError(f"{name}: ended before frame {index}; is it being changed?")
            self._next = frame.index + 1
            yield frame

    def close(self) -> None:
        """Let go of the decoder."""
        close = getattr(self._frames, "close", None)  # of a generator, which holds it
        if close is not None:
            close()
        self._frames, self._next = iter(()), self._clip.facts.num_frames

    def _start(self, index: int) -> None:
        """Go to a frame."""
        self.close()
        self._frames = iter(self._clip.frames(index, self._clip.facts.num_frames))
        self._next = index


def pack_json(content: Any) -> bytes:  # noqa: ANN401 - whatever JSON has
    """Return an object as compact JSON."""
    return json.dumps(content, separators=(",", ":"), allow_nan=False).encode()
