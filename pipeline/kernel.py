"""The one way in which functions are compiled here."""

from collections.abc import Callable
from typing import TypeVar, cast

import numba

Function = TypeVar("Function", bound=Callable[..., object])


def kernel(function: Function) -> Function:
    """Compile a function with Numba on its first call, without the interpreter lock.

    The machine code is kept next to the source (or in the user's cache folder, where that cannot
    be written), so that worker processes do not compile again. Kernels do integer arithmetic, or
    float arithmetic that never rounds, so that each machine gets the same result.
    """
    return cast(Function, numba.njit(cache=True, nogil=True)(function))
