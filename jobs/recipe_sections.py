"""The sections of a recipe: plain values, checked once.

Below the jobs only plain arguments travel.
"""

import re
from dataclasses import dataclass, field
from typing import Any, Final, Literal

from gopstream.models.catalogue_entry import IMAGENET_MEAN, IMAGENET_STD

VIEWS: Final = re.compile(r"([1-9]\d{0,2})x([1-9]\d?)")
"""Clips x crops, such as 4x3."""


@dataclass(frozen=True, slots=True)
class ModelRecipe:
    """Which network."""

    name: str
    """As ``gopstream models`` lists it, or ``package.module:function`` for one of your own, which
    takes ``num_classes``, ``num_frames`` and the options."""
    use_motion: bool = True
    """Whether a model that takes motion is given it; False is a control."""
    weights: str = ""
    """File of the weights to begin with; empty draws fresh ones."""
    mean: tuple[float, float, float] = IMAGENET_MEAN
    """Of your own network: what is subtracted from frames, where white is 1."""
    std: tuple[float, float, float] = IMAGENET_STD
    """Of your own network: what frames are then divided by."""
    options: dict[str, Any] = field(default_factory=dict)
    """Further constructor arguments."""

    def __post_init__(self) -> None:
        """Refuse what cannot be meant."""
        if not self.is_own and (self.mean, self.std) != (IMAGENET_MEAN, IMAGENET_STD):
            raise ValueError(
                "mean and std are for a network of your own (package.module:function); a model of "
                "the catalogue has its own"
            )
        if min(self.std) <= 0:
            raise ValueError(f"std must be above 0, got {list(self.std)}")

    @property
    def is_own(self) -> bool:
        """Whether the network is the user's."""
        return ":" in self.name


@dataclass(frozen=True, slots=True)
class ClipRecipe:
    """What a training clip is."""

    num_frames: int
    stride: int = 1
    """Between frames of a dense clip, in stored frames."""
    sampling: str = "dense"
    """How frames are chosen, as ``gopstream.shards.loading.sampling`` names it."""
    overrun: str = "last"
    """What a dense clip takes that is longer than its video."""
    view_rule: str = "centred"
    """Where several test clips begin."""
    motion_on: str = "worker"
    """Where motion is accumulated: in the ``worker`` that reads, or on the ``device``."""
    frames_on: str = "worker"
    """Where frames are decoded, likewise."""


@dataclass(frozen=True, slots=True)
class DataRecipe:
    """What the dataset must be; what is left out may be anything.

    Strides of the clip count stored frames, and crops are shares of stored pictures: a dataset
    that was stored otherwise trains another model.
    """

    fps: float | None = None
    """Stored frames per second, as ``gopstream shard --fps``."""
    short_side: int | None = None
    """Upper limit of the stored frames' shorter side in pixels."""
    frame_stride: int | None = None
    """Every n-th frame is stored; 1 for all of them."""
    planes: tuple[str, ...] | None = None
    """Planes that must be there, beside those that the model needs anyway."""
    mode: str | None = None
    """``canonical`` or ``native``."""

    def __post_init__(self) -> None:
        """Refuse what cannot be meant."""
        if self.mode not in (None, "canonical", "native"):
            raise ValueError(f"mode must be canonical or native, got {self.mode!r}")
        for name in ("fps", "short_side", "frame_stride"):
            value = getattr(self, name)
            if value is not None and value <= 0:
                raise ValueError(f"{name} must be above 0, got {value:g}")
        if self.fps is not None and (self.frame_stride or 1) > 1:
            raise ValueError("frames are stored either by fps or by a frame_stride; choose one")


@dataclass(frozen=True, slots=True)
class GroupRecipe:
    """Parameters with a rate or a decay of their own; the first group that matches counts."""

    match: str
    """Names of parameters, where * stands for anything: ``head.*``."""
    rate: float = 1.0
    """What the learning rate is multiplied by; 0 leaves these parameters as they are."""
    weight_decay: float | None = None
    """In place of the optimiser's; None for that."""

    def __post_init__(self) -> None:
        """Refuse what cannot be meant."""
        if self.rate < 0 or (self.weight_decay or 0.0) < 0:
            raise ValueError(
                f"rate and weight_decay must not be negative, got {self.rate:g} and "
                f"{self.weight_decay}"
            )


@dataclass(frozen=True, slots=True)
class OptimiserRecipe:
    """What takes the steps."""

    name: Literal["adamw", "sgd"] = "adamw"
    weight_decay: float = 0.05
    decay_vectors: bool = False
    """Whether biases, norms and other vectors are decayed as well."""
    betas: tuple[float, float] = (0.9, 0.999)
    """Of AdamW."""
    momentum: float = 0.9
    """Of SGD."""
    nesterov: bool = False
    """Of SGD."""
    layer_decay: float = 1.0
    """What the learning rate is multiplied by from each block to the one before it; 1 is none."""
    groups: tuple[GroupRecipe, ...] = ()

    def __post_init__(self) -> None:
        """Refuse what cannot be meant."""
        if self.weight_decay < 0:
            raise ValueError(f"weight_decay must not be negative, got {self.weight_decay:g}")
        if not 0 < self.layer_decay <= 1:
            raise ValueError(f"layer_decay must be above 0, to 1, got {self.layer_decay:g}")
        if not 0 <= self.momentum < 1 or not all(0 <= beta < 1 for beta in self.betas):
            raise ValueError("momentum and betas must be from 0 to below 1")
        if self.nesterov and not (self.name == "sgd" and self.momentum):
            raise ValueError("nesterov is for sgd with momentum")


@dataclass(frozen=True, slots=True)
class ScheduleRecipe:
    """How the learning rate moves, as shares of ``train.learning_rate``."""

    kind: Literal["cosine", "steps"] = "cosine"
    warmup_steps: int = 0
    """Steps of a linear warm-up."""
    warmup_epochs: float = 0.0
    """The same in epochs."""
    warmup_start: float = 0.0
    """Share where the warm-up begins."""
    cosine_from: Literal["warmup", "start"] = "warmup"
    """Where the cosine's clock begins: at the warm-up's end, or with the run, so that the rate
    falls at the warm-up's end (timm)."""
    final_rate: float = 0.01
    """Share at the end of the cosine."""
    milestones: tuple[float, ...] = ()
    """Epochs at which ``steps`` multiplies the rate by ``factor``."""
    factor: float = 0.1

    def __post_init__(self) -> None:
        """Refuse what cannot be meant."""
        if self.warmup_steps and self.warmup_epochs:
            raise ValueError("give warmup_steps or warmup_epochs, not both")
        for name in ("warmup_steps", "warmup_epochs", "factor"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name} must not be negative, got {getattr(self, name):g}")
        for name in ("warmup_start", "final_rate"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name} must be from 0 to 1, got {getattr(self, name):g}")
        if (self.kind == "steps") != bool(self.milestones):
            raise ValueError('milestones are for kind = "steps", which needs them')
        if list(self.milestones) != sorted(set(self.milestones)):
            raise ValueError(f"milestones must rise, got {list(self.milestones)}")


@dataclass(frozen=True, slots=True)
class TrainRecipe:
    """How it is trained."""

    batch_size: int
    """Clips of a step, of all processes and parts together."""
    learning_rate: float
    """Of a step of ``batch_size`` clips."""
    steps: int = 0
    """Length of the run; or give epochs."""
    epochs: float = 0.0
    """Length of the run in passes over the split; or give steps."""
    accumulate: int = 1
    """Parts in which each process takes its share of a step, for less memory."""
    precision: Literal["float32", "bfloat16"] = "float32"
    """Of activations; weights are float32 always."""
    compile: bool = False
    """Whether the network is compiled (torch.compile)."""
    deterministic: bool = False
    """Refuse operations that may give other results in another run; slower on a GPU."""
    clip_norm: float = 1.0
    """Upper limit of the gradient's norm; 0 is none."""
    ema: float = 0.0
    """Decay of an average of the weights over the steps, which is what is evaluated; 0 is none."""
    trainable: Literal["all", "head"] = "all"
    """``head`` trains the last layer alone: a linear probe of ``model.weights``."""
    seed: int = 0
    split: str = "train"
    labels: str = ""
    """Name of other labels, made by ``gopstream relabel``; empty takes the dataset's own."""
    label_sets: tuple[str, ...] = ()
    """Names of label sets of the dataset, such as verb_class and noun_class, that the network
    learns in place of its classes: one head each, and the right action is all of them right."""
    workers: int = 0
    """Processes that load, for each process that trains; 0 loads in that one."""
    on_error: Literal["raise", "skip"] = "raise"
    """What becomes of clips whose bytes are damaged or missing."""
    shuffle: Literal["global", "windows"] = "global"
    """``windows`` mixes within windows of shards, for datasets in object storage."""
    window_shards: int = 16
    """Shards in a window."""
    threads: int = 0
    """CPU threads of torch; 0 leaves torch's choice."""
    log_every: int = 20
    """Steps between two lines of the log."""
    checkpoint_every: int = 500
    """Steps between two checkpoints; there is always one at the end."""
    keep: int = 3
    """Checkpoints that are kept, the newest among them; the best is kept besides."""
    validate_epochs: float = 0.0
    """Epochs between two validations on ``test.split``, by one view; 0 validates never."""

    def __post_init__(self) -> None:
        """Refuse what cannot be meant."""
        if bool(self.steps) == bool(self.epochs):
            raise ValueError("give steps or epochs, one of the two")
        for name in ("batch_size", "accumulate", "log_every", "checkpoint_every", "keep"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")
        names = ("steps", "epochs", "learning_rate", "clip_norm", "validate_epochs", "workers")
        for name in (*names, "threads", "window_shards"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name} must not be negative, got {getattr(self, name):g}")
        if not 0 <= self.ema < 1:
            raise ValueError(f"ema must be from 0 to below 1, got {self.ema:g}")
        if self.batch_size % self.accumulate:
            raise ValueError(
                f"batch_size = {self.batch_size} does not divide into accumulate = "
                f"{self.accumulate} parts"
            )
        if self.labels and self.label_sets:
            raise ValueError("labels and label_sets are two ways to say what is learnt; choose one")
        if len(set(self.label_sets)) != len(self.label_sets):
            raise ValueError(f"label_sets must differ, got {list(self.label_sets)}")


@dataclass(frozen=True, slots=True)
class EvaluationRecipe:
    """How it is tested: the section [test]."""

    views: str = "1x1"
    """Clips x crops of each sample."""
    average: Literal["probabilities", "logits"] = "probabilities"
    """What of the views is averaged."""
    size: int = 0
    """Side of the crops in pixels; 0 is ``transform.size``."""
    short_side: int = 0
    """What the short side is resized to before the crop, in pixels; 0 is as
    ``transform.view_short_side`` says."""
    batch_size: int = 0
    """Views of one call of the network, 64 at most; 0 takes as many as a part of a training step
    has clips."""
    split: str = "val"

    def __post_init__(self) -> None:
        """Refuse what cannot be meant."""
        if not VIEWS.fullmatch(self.views):
            raise ValueError(f"views must be clips x crops, such as 4x3, got {self.views!r}")
        for name in ("size", "short_side", "batch_size"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name} must not be negative, got {getattr(self, name)}")


@dataclass(frozen=True, slots=True)
class PaperRecipe:
    """What the run reproduces; ``gopstream evaluate --report`` puts its score beside yours."""

    source: str
    """Paper and table."""
    dataset: str
    """As ``gopstream shard --dataset`` names it."""
    weights: str = ""
    """What the paper began with, in words; empty for fresh weights."""
    top1: float | None = None
    """Percent, by ``test.views``."""
    top5: float | None = None
    action: float | None = None
    """Of EPIC-KITCHENS: percent of actions, verb and noun."""
    note: str = ""
    """What else must be known to compare."""
