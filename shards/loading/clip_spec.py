"""What a clip is: plain numbers, from a recipe or a model's contract."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final, Literal, NamedTuple

from gopstream.shards.loading.sampling import Overrun, Sampling, ViewRule
from gopstream.shards.loading.transform_spec import TransformSpec
from gopstream.shards.value_checks import check_fields, check_value

MotionPlace = Literal["worker", "device"]
FramesPlace = Literal["worker", "device"]

_APPEARANCE: Final = ("policy", "jitter", "greyscale", "blur", "erase")
"""What of a transform the device cannot do to frames; every policy changes colours."""


@dataclass(frozen=True, slots=True)
class MotionSpec:
    """Which accumulated motion a model asks for."""

    query_stride: int
    """Every n-th frame of the clip is a query: it asks where its content lies in other frames."""
    subclip_frames: int
    """Frames of a sub-clip; a query is answered for all frames of its own sub-clip."""
    grid: int
    """Cells on a side of the motion field that is handed over."""
    on: MotionPlace = "worker"
    """Who follows the blocks through the frames: the ``worker`` that reads the clip, or the
    ``device`` (``ClipBatch.accumulated``), to which the codec's vectors are then sent: fewer
    bytes for dense clips, more for segments of long videos. Both give the same."""

    def __post_init__(self) -> None:
        """Refuse what cannot be meant.

        Raises:
            ValueError: Naming the field.
        """
        check_fields(self)
        if min(self.query_stride, self.subclip_frames, self.grid) < 1:
            raise ValueError(
                "query_stride, subclip_frames and grid must be at least 1, got "
                f"{self.query_stride}, {self.subclip_frames}, {self.grid}"
            )


@dataclass(frozen=True, slots=True)
class RgbResidualSpec:
    """Which residual between frames, along accumulated motion, a model asks for.

    The frames are rebuilt as the codec decoded them, which takes the residual plane from the
    I-frame before the clip on; each pair of frames is handed over in the size of the clip. Meant
    for comparison with motion, which costs far less.
    """

    query_stride: int
    """Every n-th frame of the clip is a query."""
    subclip_frames: int
    """Frames of a sub-clip; a query is compared with all frames of its own sub-clip."""

    def __post_init__(self) -> None:
        """Refuse what cannot be meant.

        Raises:
            ValueError: Naming the field.
        """
        check_fields(self)
        if min(self.query_stride, self.subclip_frames) < 1:
            raise ValueError(
                "query_stride and subclip_frames must be at least 1, got "
                f"{self.query_stride}, {self.subclip_frames}"
            )


@dataclass(frozen=True, slots=True)
class VectorSpec:
    """The codec's own motion vectors of each frame of the clip."""

    grid: int
    """Cells on a side of the field that is handed over."""

    def __post_init__(self) -> None:
        """Refuse what cannot be meant.

        Raises:
            ValueError: Naming the field.
        """
        check_fields(self)
        if self.grid < 1:
            raise ValueError(f"grid must be at least 1, got {self.grid}")


@dataclass(frozen=True, slots=True)
class ClipSpec:
    """What a clip holds and how it is made."""

    num_frames: int
    stride: int = 1
    """Between frames of a dense clip, in stored frames."""
    sampling: Sampling = "dense"
    overrun: Overrun = "last"
    """What a dense clip takes that is longer than its video."""
    view_rule: ViewRule = "centred"
    """Where several test clips begin."""
    transform: TransformSpec = field(default_factory=TransformSpec)
    motion: MotionSpec | None = None
    vectors: VectorSpec | None = None
    residual: bool = False
    """Whether the clip has the residual of its frames."""
    rgb_residual: RgbResidualSpec | None = None
    """What frames show beyond other frames, along accumulated motion."""
    frames_on: FramesPlace = "worker"
    """Who decodes the frames: the ``worker`` that reads the clip, or the ``device``
    (``ClipBatch.decoded``), to which only JPEGs are then handed. A CUDA device interpolates colour
    otherwise than the worker does; see :mod:`gopstream.shards.loading.device_frames`."""

    def __post_init__(self) -> None:
        """Refuse what cannot be meant.

        Raises:
            ValueError: Naming the field.
        """
        check_fields(self)
        if self.num_frames < 1 or self.stride < 1:
            raise ValueError(
                f"num_frames and stride must be at least 1, got {self.num_frames}, {self.stride}"
            )
        for pairs in (self.motion, self.rgb_residual):
            if pairs is not None:
                self._check_subclips(pairs.subclip_frames)
        changes = [name for name in _APPEARANCE if getattr(self.transform, name)]
        if self.frames_on == "device" and changes:
            raise ValueError(
                "frames_on = device can crop, resize and flip, but not change what frames look "
                f"like: leave out {', '.join(changes)} of the transform, or decode in the worker"
            )

    def _check_subclips(self, subclip_frames: int) -> None:
        if self.overrun != "last":
            raise ValueError(
                f"motion is accumulated along frames that do not fall back: overrun must be last, "
                f"got {self.overrun!r}"
            )
        if self.num_frames % subclip_frames != 0:
            raise ValueError(
                f"{self.num_frames} frames do not divide into sub-clips of {subclip_frames}"
            )


class View(NamedTuple):
    """One of several evenly spread test views of a video."""

    clip: int
    num_clips: int
    crop: int
    num_crops: int


def check_views(views: Sequence[View]) -> None:
    """Refuse views that there cannot be.

    Raises:
        ValueError: Naming the first of them.
    """
    if isinstance(views, View) or not len(views):
        raise ValueError(f"views must be a list with at least one View, got {views!r}")
    for view in views:
        check_value("a view", view, View)
        for name, number, count in (
            ("clip", view.clip, view.num_clips),
            ("crop", view.crop, view.num_crops),
        ):
            check_value(f"num_{name}s of a view", count, int, at_least=1)
            check_value(f"{name} of a view", number, int, at_least=0)
            if number >= count:
                raise ValueError(
                    f"{name} of a view must be less than num_{name}s = {count}, got {number}"
                )
