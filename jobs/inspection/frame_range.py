"""Which frames of a clip are asked for."""

from typing import NamedTuple


class FrameRange(NamedTuple):
    """Frames ``start`` to ``stop`` - 1; at least one."""

    start: int
    stop: int


def frame_range(start: int, stop: int | None, *, num_frames: int, name: str) -> FrameRange:
    """Check a range of frames.

    Args:
        start: The first frame.
        stop: The one behind the last; None for the end of the clip.
        num_frames: Of the clip.
        name: Of the clip, for the message.

    Raises:
        IndexError: If the clip does not have them all, or they are none.
    """
    end = num_frames if stop is None else stop
    if not 0 <= start < end <= num_frames:
        raise IndexError(
            f"{name} has frames 0 to {num_frames - 1}, got a range from {start} to before {end}"
        )
    return FrameRange(start, end)
