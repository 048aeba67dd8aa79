"""What a picture of a frame needs of other frames: those it is predicted from, and a way back.

The exported vectors do not name the frames that they lead to. Taken are the usual ones: of list 0
the last I- or P-frame before, of list 1 the next one after. Where a stream has several references,
or B-frames that serve as references, the codec may have used others.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final, NamedTuple

from gopstream.jobs.inspection.inspected import InspectedClip, InspectedFrame
from gopstream.pipeline.grid import BlockMotion

LONGEST_B_RUN: Final = 32
"""B-frames in a row after which the frame behind them is no longer sought; encoders make up to
16."""


@dataclass(frozen=True, slots=True)
class Step:
    """Motion of one frame."""

    index: int
    kind: str
    motion: BlockMotion | None


class Surroundings(NamedTuple):
    """Other frames of the clip that belong to one."""

    past: InspectedFrame | None = None
    """What list 0 is taken to lead to."""
    future: InspectedFrame | None = None
    """What list 1 is taken to lead to: in B-frames only."""
    steps: tuple[Step, ...] = ()
    """The frames up to and with this one, those with which motion is accumulated."""


class Needs(NamedTuple):
    """What has to be read besides a frame itself."""

    references: bool = False
    span: int = 0
    """Frames before it whose motion is needed."""


def past_reference(kinds: str, index: int) -> int | None:
    """Return the last frame before ``index`` that is no B-frame."""
    return next((i for i in range(index - 1, -1, -1) if kinds[i] != "B"), None)


def future_reference(kinds: str, index: int) -> int | None:
    """Return the next frame after a B-frame that is none, unless it is very far; else None."""
    if kinds[index] != "B":
        return None
    end = min(len(kinds), index + 1 + LONGEST_B_RUN)
    return next((i for i in range(index + 1, end) if kinds[i] != "B"), None)


def walk(
    clip: InspectedClip, *, first: int, last: int, needs: Needs
) -> Iterator[tuple[InspectedFrame, Surroundings]]:
    """Yield frames ``first`` to ``last``, each with its surroundings.

    The clip is read once, forward. Whole frames are kept from the past reference to the future one
    of a frame, so a handful; of older ones their motion alone.
    """
    kinds = clip.facts.kinds
    start = min(_oldest(kinds, first, needs=needs), max(0, first - needs.span))
    source = clip.frames(start, _newest(kinds, last, needs=needs) + 1)
    frames: dict[int, InspectedFrame] = {}
    steps: dict[int, Step] = {}
    for index in range(first, last + 1):
        while _newest(kinds, index, needs=needs) not in frames:
            frame = next(source)
            frames[frame.index] = frame
            steps[frame.index] = Step(frame.index, frame.kind, frame.motion)
        _forget(frames, before=_oldest(kinds, index, needs=needs))
        _forget(steps, before=index - needs.span)
        window = tuple(step for number, step in steps.items() if number <= index)
        yield frames[index], _surroundings(frames, kinds, index, needs=needs)._replace(steps=window)


def _surroundings(
    frames: dict[int, InspectedFrame], kinds: str, index: int, *, needs: Needs
) -> Surroundings:
    if not needs.references:
        return Surroundings()
    past, future = past_reference(kinds, index), future_reference(kinds, index)
    return Surroundings(
        None if past is None else frames[past], None if future is None else frames[future]
    )


def _oldest(kinds: str, index: int, *, needs: Needs) -> int:
    """Return the first frame that is needed whole for frame ``index``."""
    past = past_reference(kinds, index) if needs.references else None
    return index if past is None else past


def _newest(kinds: str, index: int, *, needs: Needs) -> int:
    """Return the last frame that is needed for frame ``index``."""
    future = future_reference(kinds, index) if needs.references else None
    return index if future is None else future


def _forget(kept: dict[int, InspectedFrame] | dict[int, Step], *, before: int) -> None:
    for index in [index for index in kept if index < before]:
        del kept[index]
