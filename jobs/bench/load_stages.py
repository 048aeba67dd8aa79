"""Where the time of a clip goes, stage by stage, in one process.

The time of a stage is what its modules take themselves, with what they call outside of gopstream.
"""

import cProfile
import pstats
import time
import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import simplejpeg

import gopstream
from gopstream.shards.loading.loader import StreamingLoader

_Function = tuple[str, int, str]

STAGES: Final = (
    *("read", "checksum", "JPEG decode", "transform", "motion", "choose and draw"),
    *("collate", "other"),
)
_BY_MODULE: Final = {
    "read": ("byte_ranges", "remote_ranges", "range_requests", "open_files", "shard_cache"),
    "transform": ("transform", "resampling", "appearance", "augment_policy", "geometry"),
    "motion": ("device_motion", "device_accumulation", "accumulation", "block_paths", "encoding"),
    "choose and draw": (
        *("order", "places", "sampling", "transform_draws", "transform_spec", "mixture"),
        *("reader", "sample_parts", "shard_indexes", "shard_table", "array_views", "index"),
    ),
    "collate": ("batch", "clips", "clip_reader", "loader", "batch_slots"),
}
_STAGE_OF_MODULE: Final = {name: stage for stage, names in _BY_MODULE.items() for name in names}
_ROOT: Final = str(Path(gopstream.__file__).parent)


def stage_seconds(loader: StreamingLoader, *, num_clips: int) -> dict[str, Any]:
    """Profile a loader without workers.

    Args:
        loader: What to run; ends within an epoch.
        num_clips: At least so many clips.

    Returns:
        ``clips``; ``seconds`` without a profiler; ``profiled_seconds``, and of those
        ``stages``: seconds by stage, which sum to it.
    """
    plain_clips, plain_seconds = _load(loader, num_clips)
    profiler = cProfile.Profile()
    with _visible_decoder():
        profiler.enable()
        clips, seconds = _load(loader, num_clips)
        profiler.disable()
    statistics: Any = pstats.Stats(profiler)
    stages = _by_stage(statistics.stats)
    stages["other"] += seconds - sum(stages.values())
    return {
        "clips": clips,
        "seconds": plain_seconds * clips / plain_clips,
        "profiled_seconds": seconds,
        "stages": stages,
    }


def _by_stage(profile: Mapping[_Function, Any]) -> dict[str, float]:
    """Return seconds by stage of what ``cProfile`` saw."""
    shares: dict[_Function, dict[str, float]] = {}

    def shares_of(function: _Function) -> dict[str, float]:
        """Return which stages a function works for: its own, or those of its callers."""
        if function in shares:
            return shares[function]
        shares[function] = {"other": 1.0}  # while its callers are asked, which may be itself
        stage = _stage_of(function)
        callers = {} if stage is not None else profile[function][4]
        whole = sum(spent for _, _, _, spent in callers.values())
        if whole > 0:
            found: dict[str, float] = {}
            for caller, (_, _, _, spent) in callers.items():
                for name, share in shares_of(caller).items():
                    found[name] = found.get(name, 0.0) + share * spent / whole
            shares[function] = found
        elif stage is not None:
            shares[function] = {stage: 1.0}
        return shares[function]

    stages = dict.fromkeys(STAGES, 0.0)
    for function, (_, _, own, _, callers) in profile.items():
        if _stage_of(function) is not None or not callers:
            parts = [(function, own)]
        else:
            parts = [(caller, spent) for caller, (_, _, spent, _) in callers.items()]
        for worked_for, spent in parts:
            for stage, share in shares_of(worked_for).items():
                stages[stage] += share * spent
    return stages


def _load(loader: StreamingLoader, num_clips: int) -> tuple[int, float]:
    begun, done = time.perf_counter(), 0
    while done < num_clips:
        for batch in loader:
            done += len(batch.labels)
    return done, time.perf_counter() - begun


def _stage_of(function: _Function) -> str | None:
    file, _, name = function
    if name == _decode_jpeg.__name__:
        return "JPEG decode"
    if file == "~":
        if f"{zlib.__name__}.{zlib.crc32.__name__}" in name:
            return "checksum"
        return "read" if "pread" in name else None
    # The package is a folder of links, so that modules have two paths.
    is_ours = file.startswith(_ROOT) or "/shards/" in file or "/pipeline/" in file
    return _STAGE_OF_MODULE.get(Path(file).stem, "other") if is_ours else None


_decode = simplejpeg.decode_jpeg


def _decode_jpeg(*arguments: Any, **options: Any) -> Any:  # noqa: ANN401
    return _decode(*arguments, **options)


@contextmanager
def _visible_decoder() -> Iterator[None]:
    """Let the profiler see calls of the JPEG decoder, which is compiled without its hooks."""
    simplejpeg.decode_jpeg = _decode_jpeg
    try:
        yield
    finally:
        simplejpeg.decode_jpeg = _decode
