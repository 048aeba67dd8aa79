"""RandAugment and AutoAugment as recipes name them, drawn as plain steps.

RandAugment: Cubuk et al., NeurIPS 2020 (arXiv 1909.13719). AutoAugment: Cubuk et al., CVPR 2019
(arXiv 1805.09501). Names and ranges are those of timm, which MViT, Video-Swin and their followers
use; ``imgaug`` is the two-operation policy of the recipes built on MMAction's ``Imgaug``.
A drawn step either moves pixels (``GEOMETRIC_OPS``) or changes them (``APPEARANCE_OPS``).
"""

import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from statistics import NormalDist
from types import MappingProxyType
from typing import Final, NamedTuple

import numpy as np
import numpy.typing as npt

from gopstream.pipeline.nearest_name import did_you_mean

FULL_MAGNITUDE: Final = 10.0
_TIMM_GREY: Final = 128
# Magnitude of the imgaug form: 9 of 10, and its ranges at full magnitude.
_IMGAUG_MAGNITUDE: Final = 9.0
_IMGAUG_SHEAR_DEGREES: Final = 17.19
_STEP_DRAWS: Final = 6


class Step(NamedTuple):
    """One drawn operation."""

    action: str
    """Of ``GEOMETRIC_OPS`` or ``APPEARANCE_OPS``."""
    amount: float
    centre: tuple[float, float]
    """Of a cut-out, as shares of the sides."""


class Choice(NamedTuple):
    """An operation of a sub-policy."""

    name: str
    probability: float
    magnitude: float


@dataclass(frozen=True, slots=True)
class Policy:
    """A parsed policy."""

    pool: tuple[Choice, ...] = ()
    """RandAugment: what each layer draws from, evenly."""
    layers: int = 0
    """How many operations RandAugment draws."""
    distinct: bool = False
    """Draw different operations and apply them in the pool's order."""
    sub_policies: tuple[tuple[Choice, ...], ...] = ()
    """AutoAugment: one of them is drawn."""
    spread: float = 0.0
    """Standard deviation of the magnitude; infinite draws it evenly from 0 to the magnitude."""
    limit: float = FULL_MAGNITUDE
    """Of the magnitude."""
    fill: int = _TIMM_GREY
    """Level of grey of what comes into view from outside."""


def _scaled(full: float) -> Callable[[float, float], float]:
    """Return an amount that grows with the magnitude, to either side."""
    return lambda share, sign: share * full * sign


def _factor(share: float, sign: float) -> float:
    return share * 1.8 + 0.1


def _growing_factor(share: float, sign: float) -> float:
    return max(0.1, 1.0 + share * 0.9 * sign)


def _unused(share: float, sign: float) -> float:
    return 0.0


# Name of a published operation: what it does, and the amount at a share of the full magnitude.
OPERATIONS: Final[Mapping[str, tuple[str, Callable[[float, float], float]]]] = MappingProxyType(
    {
        "AutoContrast": ("autocontrast", _unused),
        "Equalize": ("equalize", _unused),
        "Invert": ("invert", _unused),
        "Rotate": ("rotate", _scaled(30.0)),
        "ShearX": ("shear_x", _scaled(0.3)),
        "ShearY": ("shear_y", _scaled(0.3)),
        "TranslateXRel": ("translate_x", _scaled(0.45)),
        "TranslateYRel": ("translate_y", _scaled(0.45)),
        "Posterize": ("posterize", lambda share, sign: float(int(share * 4))),
        "PosterizeIncreasing": ("posterize", lambda share, sign: 4.0 - int(share * 4)),
        "PosterizeOriginal": ("posterize", lambda share, sign: 4.0 + int(share * 4)),
        "Solarize": ("solarize", lambda share, sign: float(min(256, int(share * 256)))),
        "SolarizeIncreasing": ("solarize", lambda share, sign: 256.0 - min(256, int(share * 256))),
        "SolarizeAdd": ("solarize_add", lambda share, sign: float(min(128, int(share * 110)))),
        "Color": ("saturation", _factor),
        "ColorIncreasing": ("saturation", _growing_factor),
        "Contrast": ("contrast", _factor),
        "ContrastIncreasing": ("contrast", _growing_factor),
        "Brightness": ("brightness", _factor),
        "BrightnessIncreasing": ("brightness", _growing_factor),
        "Sharpness": ("sharpness", _factor),
        "SharpnessIncreasing": ("sharpness", _growing_factor),
        "CentredShearX": (
            "centred_shear_x",
            lambda share, sign: math.tan(math.radians(_IMGAUG_SHEAR_DEGREES * share)) * sign,
        ),
        "CentredShearY": (
            "centred_shear_y",
            lambda share, sign: math.tan(math.radians(_IMGAUG_SHEAR_DEGREES * share)) * sign,
        ),
        "TranslateXFifth": ("translate_x", _scaled(0.2)),
        "TranslateYFifth": ("translate_y", _scaled(0.2)),
        "Cutout": ("cutout", lambda share, sign: 0.2 * share),
    }
)

_RAND_POOL: Final = """
AutoContrast Equalize Invert Rotate Posterize Solarize SolarizeAdd Color Contrast Brightness
Sharpness ShearX ShearY TranslateXRel TranslateYRel
"""
_GROWING: Final = ("Posterize", "Solarize", "Color", "Contrast", "Brightness", "Sharpness")
_IMGAUG_POOL: Final = """
CentredShearX CentredShearY TranslateXFifth TranslateYFifth Rotate Posterize Solarize Color
Contrast Brightness Sharpness AutoContrast Equalize Invert Cutout
"""

# Operation, probability, magnitude, twice a line: the ImageNet policy of the paper's appendix ...
_ORIGINAL: Final = """
PosterizeOriginal .4 8 Rotate .6 9
Solarize .6 5 AutoContrast .6 5
Equalize .8 8 Equalize .6 3
PosterizeOriginal .6 7 PosterizeOriginal .6 6
Equalize .4 7 Solarize .2 4
Equalize .4 4 Rotate .8 8
Solarize .6 3 Equalize .6 7
PosterizeOriginal .8 5 Equalize 1 2
Rotate .2 3 Solarize .6 8
Equalize .6 8 PosterizeOriginal .4 6
Rotate .8 8 Color .4 0
Rotate .4 9 Equalize .6 2
Equalize 0 7 Equalize .8 8
Invert .6 4 Equalize 1 8
Color .6 4 Contrast 1 8
Rotate .8 8 Color 1 2
Color .8 8 Solarize .8 7
Sharpness .4 7 Invert .6 8
ShearX .6 5 Equalize 1 9
Color .4 0 Equalize .6 3
Equalize .4 7 Solarize .2 4
Solarize .6 5 AutoContrast .6 5
Invert .6 4 Equalize 1 8
Color .6 4 Contrast 1 8
Equalize .8 8 Equalize .6 3
"""
# ... and the one that was released with EfficientNet.
_V0: Final = """
Equalize .8 1 ShearY .8 4
Color .4 9 Equalize .6 3
Color .4 1 Rotate .6 8
Solarize .8 3 Equalize .4 7
Solarize .4 2 Solarize .6 2
Color .2 0 Equalize .8 8
Equalize .4 8 SolarizeAdd .8 3
ShearX .2 9 Rotate .6 8
Color .6 1 Equalize 1 2
Invert .4 9 Rotate .6 0
Equalize 1 9 ShearY .6 3
Color .4 7 Equalize .6 0
Posterize .4 6 AutoContrast .4 7
Solarize .6 8 Color .6 9
Solarize .2 4 Rotate .8 9
Rotate 1 7 TranslateYRel .8 9
ShearX 0 0 Solarize .8 4
ShearY .8 0 Color .6 4
Color 1 0 Rotate .6 2
Equalize .8 4 Equalize 0 8
Equalize 1 4 AutoContrast .6 2
ShearY .4 7 SolarizeAdd .6 7
Posterize .8 2 Solarize .6 10
Solarize .6 8 Equalize .6 1
Color .8 6 Rotate .4 5
"""

POLICIES: Final = ("rand", "original", "originalr", "v0", "v0r", "imgaug")
"""First words of a policy's name."""
_KEYS: Final = {"rand": ("m", "n", "p", "mstd", "mmax", "inc"), "imgaug": ()}
_AUTO_KEYS: Final = ("mstd",)


@lru_cache(maxsize=32)
def parse_policy(name: str) -> Policy:
    """Read a policy's name.

    ``rand`` is RandAugment with ``m`` the magnitude (default 10), ``n`` the operations drawn (2),
    ``p`` the probability of each (0.5), ``mstd`` the standard deviation of the magnitude (0; above
    100 it is drawn evenly from 0 to m), ``mmax`` its limit (10), ``inc1`` operations that all
    grow stronger with it. ``original``, ``v0`` and, with bits that fall with the magnitude,
    ``originalr`` and ``v0r`` are AutoAugment, with ``mstd``. ``imgaug`` is two of fifteen
    operations at magnitude 9.

    Args:
        name: Such as ``rand-m9-mstd0.5-inc1`` or ``original-mstd0.5``.

    Raises:
        ValueError: If a word or key is not known; names the nearest, and those there are.
    """
    kind, *words = name.split("-")
    _check(kind, POLICIES, f"augmentation policy {name!r}: no policy")
    values = {}
    known = _KEYS.get(kind, _AUTO_KEYS)
    for word in words:
        match = re.fullmatch(r"([a-z]+)(\d+(?:\.\d+)?|inf)", word)
        if match is None:
            raise ValueError(
                f"augmentation policy {name!r}: expected a key and a number, such as mstd0.5, "
                f"got {word!r}"
            )
        _check(match[1], known, f"augmentation policy {name!r}: {kind} has no key")
        values[match[1]] = float(match[2])
    if kind == "imgaug":
        pool = tuple(Choice(op, 1.0, _IMGAUG_MAGNITUDE) for op in _IMGAUG_POOL.split())
        return Policy(pool, layers=2, distinct=True, fill=0)
    spread = values.get("mstd", 0.0)
    if kind == "rand":
        return _rand_policy(values, math.inf if spread > 100 else spread)
    text = _ORIGINAL if kind.startswith("original") else _V0
    if kind.endswith("r"):
        text = re.sub(r"Posterize(Original)?", "PosterizeIncreasing", text)
    return Policy(sub_policies=tuple(map(_sub_policy, text.split("\n")[1:-1])), spread=spread)


def _rand_policy(values: Mapping[str, float], spread: float) -> Policy:
    names = _RAND_POOL.split()
    if values.get("inc"):
        names = [f"{name}Increasing" if name in _GROWING else name for name in names]
    magnitude, probability = values.get("m", FULL_MAGNITUDE), values.get("p", 0.5)
    return Policy(
        pool=tuple(Choice(name, probability, magnitude) for name in names),
        layers=int(values.get("n", 2)),
        spread=spread,
        limit=values.get("mmax", FULL_MAGNITUDE),
    )


def _sub_policy(line: str) -> tuple[Choice, ...]:
    words = line.split()
    return tuple(
        Choice(words[i], float(words[i + 1]), float(words[i + 2])) for i in range(0, len(words), 3)
    )


def _check(word: str, known: tuple[str, ...], what: str) -> None:
    """Refuse a word that is not known, naming the nearest."""
    if word in known:
        return
    hint = did_you_mean(word, known)
    raise ValueError(f"{what} {word!r}{hint}; there are: {', '.join(known) or 'none'}")


def num_draws(policy: Policy) -> int:
    """Return how many random numbers a clip's draw takes, whatever comes of it."""
    steps = policy.layers if policy.pool else max(map(len, policy.sub_policies))
    return 1 + steps * _STEP_DRAWS


def draw_steps(policy: Policy, draws: npt.NDArray[np.float64]) -> list[Step]:
    """Choose the operations of one clip.

    Args:
        policy: What to choose from.
        draws: (num_draws,) random numbers in [0, 1).
    """
    rows = draws[1:].reshape(-1, _STEP_DRAWS)
    if not policy.pool:
        choices = list(policy.sub_policies[int(draws[0] * len(policy.sub_policies))])
    elif policy.distinct:
        left = list(range(len(policy.pool)))
        taken = [left.pop(int(row[0] * len(left))) for row in rows]
        choices = [policy.pool[place] for place in sorted(taken)]
    else:
        choices = [policy.pool[int(row[0] * len(policy.pool))] for row in rows]
    return [
        _step(choice, row, policy)
        for choice, row in zip(choices, rows, strict=True)
        if row[1] < choice.probability
    ]


def _step(choice: Choice, row: npt.NDArray[np.float64], policy: Policy) -> Step:
    """Draw the amount of an operation."""
    magnitude = choice.magnitude
    if policy.spread == math.inf:
        magnitude *= float(row[2])
    elif policy.spread > 0:
        # The number 0 has no normal quantile.
        magnitude += policy.spread * NormalDist().inv_cdf(max(float(row[2]), 2.0**-54))
    share = min(max(magnitude, 0.0), policy.limit) / FULL_MAGNITUDE
    action, amount = OPERATIONS[choice.name]
    sign = -1.0 if row[3] >= 0.5 else 1.0
    return Step(action, amount(share, sign), (float(row[4]), float(row[5])))
