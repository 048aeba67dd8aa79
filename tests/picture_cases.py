"""A clip whose frames are given by hand, for tests of pictures."""

import numpy as np

from gopstream.jobs.inspection.inspected import ClipFacts, InspectedFrame, SignedResidual
from gopstream.pipeline.grid import BlockMotion


class GivenClip:
    """Frames of a list; remembers which ranges were read."""

    def __init__(self, frames, *, size=(64, 48), **changes):
        self._frames = frames
        self.ranges = []
        self.facts = make_facts("".join(frame.kind for frame in frames), size=size, **changes)

    def frames(self, start=0, stop=None):
        self.ranges.append((start, stop))
        return iter(self._frames[start:stop])


def make_facts(kinds, *, size=(64, 48), num_lists=1, **changes):
    """Facts of a clip of (width, height) that is shown whole, 25 frames per second."""
    facts = {
        "name": "given",
        "source": "video",
        "mode": "native",
        "kinds": kinds,
        "times": np.arange(len(kinds)) / 25,
        "coded_size": size,
        "display_rect": (0, 0, *size),
        "num_lists": num_lists,
        "planes": frozenset({"frames", "motion", "residual"}),
        "exactness": "exact",
    }
    return ClipFacts(**facts | changes)


def make_frame(index=0, kind="P", *, size=(64, 48), motion=None, picture=None, **changes):
    """A frame whose blocks stand still, of a grey picture."""
    width, height = size
    if motion is None:
        motion = make_motion(size=size)
    if picture is None:
        picture = np.full((height, width, 3), 90, np.uint8)
    values = {"picture_of": index, "vectors": None, "residual": None} | changes
    return InspectedFrame(index=index, kind=kind, picture=picture, motion=motion, **values)


def make_motion(*lists, size=(64, 48), num_lists=1, covered=1):
    """Motion of (dx, dy) pixels for each list all over the picture, or of zeros."""
    rows, columns = size[1] // 8, size[0] // 8
    vectors = lists or ((0, 0),) * num_lists
    motion = np.zeros((len(vectors), rows, columns, 2), np.int16)
    for number, vector in enumerate(vectors):
        motion[number] = np.round(4 * np.asarray(vector))
    return BlockMotion(motion, np.full(motion.shape[:3], covered, np.uint8))


def make_residual(luma):
    """A residual with zero chroma."""
    chroma = np.zeros((luma.shape[0] // 2, luma.shape[1] // 2), np.int16)
    return SignedResidual(luma.astype(np.int16), chroma, chroma)
