"""Random damage to video files, each case a pure function of a seed and its number."""

from collections.abc import Callable, Sequence
from typing import Final, NamedTuple

import numpy as np

Random = np.random.Generator

_HEADER_BYTES: Final = 4096
_EXTREMES: Final = (0, 1, 0x7F, 0xFF, 0x7FFF, 0xFFFF, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF)


class Mutant(NamedTuple):
    """A damaged file."""

    source: int
    """Index of the file that it was made from."""
    steps: tuple[str, ...]
    """What was done, in order."""
    content: bytes


def mutate(sources: Sequence[bytes], *, seed: int, number: int) -> Mutant:
    """Make case ``number``: one to three steps of damage to one of the sources."""
    random = np.random.default_rng([seed, number])
    source = int(random.integers(len(sources)))
    content = sources[source]
    names = []
    # Mostly one step, and mostly a small one: a file that is torn to pieces is refused at once.
    for _ in range(int(random.choice([1, 2, 3], p=[0.6, 0.25, 0.15]))):
        name = str(random.choice(list(_STEPS)))
        content = _STEPS[name](content, sources, random)
        names.append(name)
    return Mutant(source, tuple(names), content)


def _flip_bytes(content: bytes, sources: Sequence[bytes], random: Random) -> bytes:
    if not content:
        return content
    changed = np.frombuffer(content, np.uint8).copy()
    count = round(100 ** random.random())
    changed[random.integers(0, len(changed), count)] = random.integers(0, 256, count, np.uint8)
    return changed.tobytes()


def _flip_bits(content: bytes, sources: Sequence[bytes], random: Random) -> bytes:
    if not content:
        return content
    changed = np.frombuffer(content, np.uint8).copy()
    count = round(100 ** random.random())
    places = random.integers(0, len(changed), count)
    changed[places] ^= (1 << random.integers(0, 8, count)).astype(np.uint8)
    return changed.tobytes()


def _cut(content: bytes, sources: Sequence[bytes], random: Random) -> bytes:
    return content[: int(random.integers(0, len(content) + 1))]


def _behead(content: bytes, sources: Sequence[bytes], random: Random) -> bytes:
    return content[int(random.integers(0, len(content) + 1)) :]


def _splice(content: bytes, sources: Sequence[bytes], random: Random) -> bytes:
    """Go on with another file, from anywhere in it."""
    other = sources[int(random.integers(len(sources)))]
    return _cut(content, sources, random) + _behead(other, sources, random)


def _block(content: bytes, random: Random) -> tuple[int, int]:
    """Choose a block, small ones as often as large ones."""
    start = int(random.integers(0, len(content) + 1))
    length = int(2 ** random.uniform(0, np.log2(len(content) // 2 + 2)))
    return start, min(len(content), start + length)


def _delete(content: bytes, sources: Sequence[bytes], random: Random) -> bytes:
    start, end = _block(content, random)
    return content[:start] + content[end:]


def _repeat(content: bytes, sources: Sequence[bytes], random: Random) -> bytes:
    start, end = _block(content, random)
    return content[:end] + content[start:]


def _zero(content: bytes, sources: Sequence[bytes], random: Random) -> bytes:
    start, end = _block(content, random)
    return content[:start] + bytes(end - start) + content[end:]


def _randomise(content: bytes, sources: Sequence[bytes], random: Random) -> bytes:
    start, end = _block(content, random)
    noise = random.integers(0, 256, end - start, np.uint8).tobytes()
    return content[:start] + noise + content[end:]


def _edit_header(content: bytes, sources: Sequence[bytes], random: Random) -> bytes:
    """Set fields near the beginning or the end, where indexes lie, to extreme values."""
    for _ in range(int(random.integers(1, 9))):
        size = int(random.choice([1, 2, 4]))
        place = int(random.integers(0, min(_HEADER_BYTES, len(content) + 1)))
        if random.integers(2):
            place = max(0, len(content) - place)
        value = int(random.choice(_EXTREMES)) & (1 << 8 * size) - 1
        content = content[:place] + value.to_bytes(size, "big") + content[place + size :]
    return content


_STEPS: Final[dict[str, Callable[[bytes, Sequence[bytes], Random], bytes]]] = {
    "flip bytes": _flip_bytes,
    "flip bits": _flip_bits,
    "cut": _cut,
    "behead": _behead,
    "splice": _splice,
    "delete": _delete,
    "repeat": _repeat,
    "zero": _zero,
    "randomise": _randomise,
    "edit header": _edit_header,
}
