"""What the catalogue says about a model."""

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Final, Literal

from torch import nn

from gopstream.models.paper_figures import PaperFigures
from gopstream.models.weights.source_layout import SourceLayout

IMAGENET_MEAN: Final = (0.485, 0.456, 0.406)
IMAGENET_STD: Final = (0.229, 0.224, 0.225)


@dataclass(frozen=True, slots=True, kw_only=True)
class InputContract:
    """What a model made with its default options wants to be given."""

    planes: tuple[Literal["frames", "motion"], ...]
    """Inputs of `forward`; "motion" may be left out and then counts as no motion."""
    num_frames: int
    """Sampled frames of a clip."""
    sampling: Literal["dense", "segments"] = "dense"
    """"dense": frames `frame_stride` apart; "segments": one from each of `num_frames` equal parts
    of the whole video. Recipes of the paper for other data sets may differ: see the notes."""
    frame_stride: int | None
    """Raw frames from one sampled frame to the next; None for segments, which have no stride."""
    size: int
    """Height and width of the frames in pixels."""
    mean: tuple[float, float, float]
    """RGB, on the scale where white is 1; ``(pixel - mean) / std`` enters `forward`."""
    std: tuple[float, float, float]
    """RGB, on the same scale."""
    test_clips: int = 1
    """Clips of a video over which the paper's test averages."""
    test_crops: int = 1
    """Crops of each of them."""
    query_stride: int | None
    """Token frame q is centred on sampled frame ``q * query_stride``; None without motion."""
    subclip_frames: int | None
    """J, sampled frames whose motion a token frame is given; None without motion."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Paper:
    """Where a model comes from."""

    title: str
    year: int


@dataclass(frozen=True, slots=True, kw_only=True)
class CatalogueEntry:
    """One model of the catalogue."""

    name: str
    family: Literal["dvt", "mvit", "sifa", "video_focalnet", "pst", "deit"]
    """The package that it comes from."""
    constructor: Callable[..., nn.Module] = field(repr=False)
    """Takes the number of classes, then keyword options."""
    contract: InputContract
    paper: Paper
    notes: str
    figures: PaperFigures | None = None
    """None for small models, which no paper has."""
    layouts: tuple[SourceLayout, ...] = field(default=(), repr=False)
    """Names that weights of others may have; those of the same model always load."""
    weights_that_fit: tuple[str, ...] = ()
    """In words, what has been published under those names."""
    shrunk: Mapping[str, object] = field(default_factory=dict)
    """Options that make the same kind of network small, for tests."""
    shrunk_size: int
    """Height and width in pixels that suit `shrunk`."""

    @property
    def parameters(self) -> dict[str, inspect.Parameter]:
        """The keyword options that `create_model` takes for this model, by name."""
        parameters = inspect.signature(self.constructor).parameters
        return {name: one for name, one in parameters.items() if name != "num_classes"}

    @property
    def options(self) -> tuple[str, ...]:
        """Names of those options."""
        return tuple(self.parameters)
