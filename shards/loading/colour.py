"""Differences of colours: from Y'CbCr to R'G'B'.

Differences are linear, so that black level and clipping play no part.
"""

from collections.abc import Mapping
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from gopstream.shards.errors import DamageError, ShardError

# Kr and Kb of each matrix, by FFmpeg's name: ITU-T H.273, table 4 (MatrixCoefficients).
_LUMA_WEIGHTS: Final = {
    "bt709": (0.2126, 0.0722),
    "fcc": (0.30, 0.11),
    "bt470bg": (0.299, 0.114),
    "smpte170m": (0.299, 0.114),
    "smpte240m": (0.212, 0.087),
    "bt2020nc": (0.2627, 0.0593),
}
_UNSPECIFIED: Final = "unspecified"
_UNNAMED: Final = "smpte170m"
"""What a file that does not name its matrix is read as, as FFmpeg does; the canonical stream of
a source whose matrix has no row above is converted to it."""
_LIMITED_LUMA: Final = 255 / 219
_LIMITED_CHROMA: Final = 255 / 224


def rgb_of_differences(content: Mapping[str, Any], *, where: str) -> npt.NDArray[np.float32]:
    """Return (3, 3) from differences of a sample's (Y, Cb, Cr) to those of (R, G, B).

    The canonical stream is of limited range and of its source's matrix, where that has a name;
    a native stream is the source.

    Args:
        content: The sample's json.
        where: The sample, for messages.

    Raises:
        DamageError: If the json does not say what its pictures are.
        ShardError: If the pictures' matrix is not one of R'G'B' alone, such as YCgCo.
    """
    try:
        source, mode = content["source"], content["settings"]["mode"]
        matrix, is_full = source["matrix"], mode == "native" and bool(source["full_range"])
    except (KeyError, TypeError) as error:
        raise DamageError(f"{where}: the json does not say the colours ({error})") from error
    if mode == "native" and matrix not in (*_LUMA_WEIGHTS, _UNSPECIFIED):
        raise ShardError(
            f"{where}: there is no RGB residual of a native stream whose colour matrix is "
            f"{matrix!r}; shard the video with --mode canonical, which converts it"
        )
    red, blue = _LUMA_WEIGHTS.get(matrix, _LUMA_WEIGHTS[_UNNAMED])
    green = 1.0 - red - blue
    luma, chroma = (1.0, 1.0) if is_full else (_LIMITED_LUMA, _LIMITED_CHROMA)
    to_red, to_blue = 2.0 * (1.0 - red) * chroma, 2.0 * (1.0 - blue) * chroma
    # H.273, equations 38 to 40, solved for R', G' and B'.
    return np.array(
        [
            [luma, 0.0, to_red],
            [luma, -to_blue * blue / green, -to_red * red / green],
            [luma, to_blue, 0.0],
        ],
        np.float32,
    )
