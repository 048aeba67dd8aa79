"""Clips whose classes differ in motion alone: what is drawn at random, and the frames.

In each clip a texture moves behind a window that stays where it is, among things that do not
tell the class: another texture around the window, small objects on paths of their own, the
exposure. The class is how the texture in the window moves.

One frame must not give the class away, so that a model of single frames stays at chance.
The position in the texture, the angle and the zoom are therefore uniform on circles at every
moment of every class: the texture is periodic, the angle is an angle, and zooming passes
through octaves that fade into each other, like the notes of a Shepard tone, so that "far
zoomed in" does not exist. Motion does not blur.

All draws come from ``numpy.random.Generator`` seeded by (seed, split, class, index, purpose):
a clip does not depend on how many others are made, and training and validation share no
texture.

Axes: x to the right, y down, lengths in pixels of the generated frame, angles clockwise.
Dimensions: T frames, H height, W width, M pixels of the window.
"""

import math
from dataclasses import dataclass
from typing import Final, Literal, NamedTuple, get_args

import numpy as np
import numpy.typing as npt

from gopstream.jobs.demo_textures import FloatArray, Texture, make_texture, sample_tile

MotionClass = Literal[
    "move_left",
    "move_right",
    "move_up",
    "move_down",
    "zoom_in",
    "zoom_out",
    "rotate_clockwise",
    "rotate_counterclockwise",
]
Split = Literal["train", "val"]

MOTION_CLASSES: Final[tuple[MotionClass, ...]] = get_args(MotionClass)
SPLITS: Final[tuple[Split, ...]] = get_args(Split)


class Direction(NamedTuple):
    """Which coordinate of the moving texture changes, and with which sign."""

    x: int = 0
    y: int = 0
    zoom: int = 0
    angle: int = 0


DIRECTIONS: Final[dict[MotionClass, Direction]] = {
    "move_left": Direction(x=-1),
    "move_right": Direction(x=1),
    "move_up": Direction(y=-1),
    "move_down": Direction(y=1),
    "zoom_in": Direction(zoom=1),
    "zoom_out": Direction(zoom=-1),
    "rotate_clockwise": Direction(angle=1),
    "rotate_counterclockwise": Direction(angle=-1),
}

_REFERENCE_SIZE: Final = 64
"""Speeds below are in pixels per frame of a picture this wide: the demo's canonical stream."""

_SPEED_RANGE: Final = (0.8, 1.9)
"""Root mean square over the window, so that no class is the fast one."""

_MAX_RATE: Final = 0.1
"""Radians, or nepers, per frame: faster and an 8x8 block no longer moves as one."""

_OCTAVE: Final = 2.0
"""Ratio of sizes after which zooming repeats itself."""

_NUM_OCTAVE_OFFSETS: Final = 16

Purpose = Literal["foreground", "background", "scene", "encoding"]

_PURPOSES: Final[tuple[Purpose, ...]] = get_args(Purpose)


@dataclass(frozen=True, slots=True)
class VideoKey:
    """What makes a video of a data set unique; all its randomness derives from this."""

    seed: int
    """Of the data set, 0 to 2**32 - 1."""
    split: Split
    motion_class: MotionClass
    index: int
    """Within the class."""

    def __post_init__(self) -> None:
        """Refuse a seed that could make two keys equal to ``numpy.random.SeedSequence``."""
        if not 0 <= self.seed < 2**32:
            raise ValueError(f"seed must be between 0 and 2**32 - 1, got {self.seed}")


class Distractor(NamedTuple):
    """A small disc of background texture on a straight path, re-entering where it leaves."""

    radius: float
    start: tuple[float, float]
    """(x, y) at the middle of the clip."""
    velocity: tuple[float, float]
    """(x, y) pixels per frame."""
    contrast: float
    """Factor on the texture's detail; negative swaps dark and bright."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Scene:
    """Everything about a clip but its class."""

    num_frames: int
    size: int
    foreground: Texture
    background: Texture
    window_centre: tuple[float, float]
    window_radius: float
    window_exponent: float
    """Of the superellipse: 2 is a disc, 5 a rounded square."""
    pivot: tuple[float, float]
    """Centre of rotation and zoom."""
    speed: float
    """Root mean square over the window in pixels per frame."""
    start_angle: float
    """At the middle of the clip, radians."""
    start_octave: float
    """At the middle of the clip, 0..1."""
    density: float
    """Texels per pixel."""
    offsets: FloatArray
    """(_NUM_OCTAVE_OFFSETS, 2) float32: where in the tile each octave looks, (x, y) texels."""
    drift: tuple[float, float]
    """Of the background, pixels per frame."""
    distractors: tuple[Distractor, ...]
    exposure: FloatArray
    """(T,) float32 gain."""
    brightness: float
    """Added after the gain, in 0..1."""


class Trajectory(NamedTuple):
    """Where the moving texture is in each frame."""

    shift: FloatArray
    """(T, 2) float32, (x, y) pixels."""
    angle: FloatArray
    """(T,) float32 radians."""
    octave: FloatArray
    """(T,) float32, logarithm of the size to the base ``_OCTAVE``."""


def draw_scene(key: VideoKey, *, num_frames: int, size: int) -> Scene:
    """Draw everything about a clip that its class does not decide.

    Args:
        key: The video; its textures come from generators of their own.
        num_frames: Frames of the clip.
        size: Height and width of its frames in pixels.

    Returns:
        The scene. Distributions are the same for all classes and both directions of time.

    Raises:
        ValueError: If ``num_frames`` or ``size`` is out of range.
    """
    if num_frames < 2:
        raise ValueError(f"num_frames must be at least 2, got {num_frames}")
    if size < 64 or size % 2:
        raise ValueError(f"size must be even and at least 64, got {size}")
    rng = make_rng(key, "scene")
    scale = size / _REFERENCE_SIZE
    radius = rng.uniform(0.3, 0.42) * size
    centre = rng.uniform(radius + 1, size - radius - 1, 2)
    foreground = make_texture(make_rng(key, "foreground"), side=256)
    return Scene(
        num_frames=num_frames,
        size=size,
        foreground=foreground,
        background=make_texture(make_rng(key, "background"), side=128),
        window_centre=_pair(centre),
        window_radius=radius,
        window_exponent=float(rng.choice([2.0, 5.0])),
        pivot=_pair(centre + rng.normal(0.0, 0.06 * radius, 2)),
        speed=math.exp(rng.uniform(*np.log(_SPEED_RANGE))) * scale,
        start_angle=rng.uniform(-math.pi, math.pi),
        start_octave=rng.uniform(),
        density=rng.uniform(1.1, 1.6) * 96 / size,
        offsets=rng.uniform(0, 256, (_NUM_OCTAVE_OFFSETS, 2)).astype(np.float32),
        drift=_pair(rng.normal(0.0, 0.1 * scale, 2) * rng.integers(0, 2)),
        distractors=tuple(_draw_distractor(rng, size) for _ in range(rng.integers(1, 3))),
        exposure=_draw_exposure(rng, num_frames),
        brightness=rng.uniform(-0.05, 0.05),
    )


def make_rng(key: VideoKey, purpose: Purpose) -> np.random.Generator:
    """Make the generator of one video for one purpose.

    Args:
        key: The video.
        purpose: What will be drawn.

    Returns:
        A new generator; any two keys or purposes have unrelated ones.
    """
    return np.random.default_rng(list_entropy(key, purpose))


def list_entropy(key: VideoKey, purpose: Purpose) -> tuple[int, ...]:
    """List the numbers that seed one generator.

    Args:
        key: The video.
        purpose: What will be drawn.

    Returns:
        Five numbers, different for any two videos and purposes.
    """
    return (
        key.seed,
        SPLITS.index(key.split),
        MOTION_CLASSES.index(key.motion_class),
        key.index,
        _PURPOSES.index(purpose),
    )


def plan_trajectory(motion_class: MotionClass, scene: Scene) -> Trajectory:
    """Move the texture as the class says, symmetrically about the middle of the clip.

    A trajectory read backwards is that of the opposite class in the same scene, exactly.

    Args:
        motion_class: What moves, and in which direction.
        scene: The draws; only its numbers are used.

    Returns:
        The state in each frame. Content at the pivot plus ``p`` in the texture's own frame
        shows at pivot + shift + size * rotation(angle) @ p.
    """
    direction = DIRECTIONS[motion_class]
    times = np.arange(scene.num_frames) - (scene.num_frames - 1) / 2
    # A disc that turns by w per frame moves by w * radius / sqrt(2) in the root mean square.
    rate = min(scene.speed * math.sqrt(2) / scene.window_radius, _MAX_RATE)
    octaves_per_frame = rate / math.log(_OCTAVE)
    shift = times[:, None] * scene.speed * np.array([direction.x, direction.y])
    return Trajectory(
        shift.astype(np.float32),
        (scene.start_angle + times * rate * direction.angle).astype(np.float32),
        (scene.start_octave + times * octaves_per_frame * direction.zoom).astype(np.float32),
    )


def render_clip(motion_class: MotionClass, scene: Scene) -> npt.NDArray[np.uint8]:
    """Draw the frames of a clip.

    Args:
        motion_class: How the texture in the window moves.
        scene: All the rest.

    Returns:
        (T, H, W, 3) uint8 RGB.
    """
    y, x = np.indices((scene.size, scene.size), np.float32)
    coverage = _window_coverage(scene, x=x, y=y)
    window = coverage > 0  # (H, W), M of them true
    alpha = coverage[window][:, None]
    frames = _render_background(scene, x=x, y=y)
    trajectory = plan_trajectory(motion_class, scene)
    for time in range(scene.num_frames):
        inside = _render_window(scene, trajectory, time=time, x=x[window], y=y[window])
        frames[time, window] += alpha * (inside - frames[time, window])
        for distractor in scene.distractors:
            _paint_distractor(frames[time], scene, distractor=distractor, time=time)
    frames *= 255 * scene.exposure[:, None, None, None]
    frames += np.float32(255 * scene.brightness + 0.5)
    return np.clip(frames, 0, 255, out=frames).astype(np.uint8)


def _pair(values: npt.NDArray[np.float64]) -> tuple[float, float]:
    """Turn (2,) into a tuple of floats."""
    return float(values[0]), float(values[1])


def _draw_distractor(rng: np.random.Generator, size: int) -> Distractor:
    """Draw a disc whose path has nothing to do with the class."""
    heading = rng.uniform(-math.pi, math.pi)
    speed = rng.uniform(0.0, _SPEED_RANGE[1]) * size / _REFERENCE_SIZE
    return Distractor(
        radius=rng.uniform(0.05, 0.09) * size,
        start=_pair(rng.uniform(0, size, 2)),
        velocity=(speed * math.cos(heading), speed * math.sin(heading)),
        contrast=rng.uniform(0.7, 1.3) * rng.choice([-1, 1]),
    )


def _draw_exposure(rng: np.random.Generator, num_frames: int) -> FloatArray:
    """Draw (T,) float32 gains: one for the clip, and a slow flicker of at most 2 %."""
    phase = rng.uniform(0, 2 * math.pi) + np.arange(num_frames) * rng.uniform(0.1, 0.8)
    gain = rng.uniform(0.85, 1.1) * (1 + rng.uniform(0, 0.02) * np.sin(phase))
    return np.asarray(gain, np.float32)


def _window_coverage(scene: Scene, *, x: FloatArray, y: FloatArray) -> FloatArray:
    """Return (H, W) float32, how much of each pixel the window covers."""
    exponent = scene.window_exponent
    across = np.abs(x - scene.window_centre[0]) / scene.window_radius
    along = np.abs(y - scene.window_centre[1]) / scene.window_radius
    distance = (across**exponent + along**exponent) ** (1 / exponent)
    return np.asarray(np.clip((1 - distance) * scene.window_radius + 0.5, 0, 1), np.float32)


def _render_background(scene: Scene, *, x: FloatArray, y: FloatArray) -> FloatArray:
    """Return (T, H, W, 3) float32 frames in 0..1, still to be painted on."""
    still = scene.drift == (0.0, 0.0)
    times = np.arange(1 if still else scene.num_frames) - (scene.num_frames - 1) / 2
    frames = np.empty((scene.num_frames, *x.shape, 3), np.float32)
    for time, moment in enumerate(times):
        left, top = np.float32(scene.drift[0] * moment), np.float32(scene.drift[1] * moment)
        texels = np.float32(scene.density)
        detail = sample_tile(
            scene.background.detail,
            x=((x - left) * texels).ravel(),
            y=((y - top) * texels).ravel(),
        )
        frames[time] = detail.reshape(*x.shape, 3) + scene.background.mean
    frames[len(times) :] = frames[len(times) - 1]
    return frames


def _render_window(
    scene: Scene, trajectory: Trajectory, *, time: int, x: FloatArray, y: FloatArray
) -> FloatArray:
    """Return (M, 3) float32, the moving texture of one frame at pixels (x, y).

    Two octaves are summed with weights whose squares add up to 1: contrast stays the same.
    """
    cosine, sine = np.cos(trajectory.angle[time]), np.sin(trajectory.angle[time])
    x = x - np.float32(scene.pivot[0]) - trajectory.shift[time, 0]
    y = y - np.float32(scene.pivot[1]) - trajectory.shift[time, 1]
    x, y = cosine * x + sine * y, cosine * y - sine * x
    octave = math.floor(trajectory.octave[time])
    phase = float(trajectory.octave[time]) - octave
    colour = np.broadcast_to(scene.foreground.mean, (len(x), 3)).copy()
    for layer, weight in (
        (octave, math.cos(phase * math.pi / 2)),
        (octave + 1, math.sin(phase * math.pi / 2)),
    ):
        offset = scene.offsets[layer % _NUM_OCTAVE_OFFSETS]
        texels = np.float32(scene.density * _OCTAVE ** (layer - float(trajectory.octave[time])))
        detail = sample_tile(
            scene.foreground.detail, x=x * texels + offset[0], y=y * texels + offset[1]
        )
        colour += np.float32(weight) * detail
    return colour


def _paint_distractor(
    frame: FloatArray, scene: Scene, *, distractor: Distractor, time: int
) -> None:
    """Paint a disc into a (H, W, 3) frame in place."""
    moment = time - (scene.num_frames - 1) / 2
    period = scene.size + 2 * distractor.radius + 2
    x, y = (
        (start + velocity * moment + distractor.radius + 1) % period - distractor.radius - 1
        for start, velocity in zip(distractor.start, distractor.velocity, strict=True)
    )
    reach = distractor.radius + 1
    top, left = max(0, math.floor(y - reach)), max(0, math.floor(x - reach))
    part = frame[top : math.ceil(y + reach), left : math.ceil(x + reach)]
    rows, columns = np.indices(part.shape[:2], np.float32)
    down, right = rows + np.float32(top - y), columns + np.float32(left - x)
    alpha = np.clip(distractor.radius - np.hypot(right, down) + 0.5, 0, 1)[..., None]
    detail = sample_tile(scene.background.detail, x=right.ravel(), y=down.ravel())
    colour = scene.background.mean + np.float32(distractor.contrast) * detail.reshape(part.shape)
    part += alpha * (colour - part)
