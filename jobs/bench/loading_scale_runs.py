"""The two processes whose memory ``loading_scale`` compares.

Each imports what it needs when it is run, so that neither has in memory what the other needs.
"""

import itertools
import json
import sys
import time
from typing import Any, Final

WORKERS: Final = 4
BATCHES: Final = 100
BATCH_SIZE: Final = 16
_CLIP_FRAMES: Final = 8
_CLIP_SIZE: Final = 32


def open_split(folder: str) -> None:
    """Open a split in this process and draw batches; prints the seconds that it took.

    The workers live until this process ends.
    """
    from gopstream.shards import ShardDataset, StreamingLoader
    from gopstream.shards.loading.clip_spec import ClipSpec
    from gopstream.shards.loading.transform_spec import TransformSpec

    begun = time.monotonic()
    dataset = ShardDataset(folder, "train")
    opened = time.monotonic()
    spec = ClipSpec(_CLIP_FRAMES, transform=TransformSpec(size=_CLIP_SIZE))
    loader = StreamingLoader(dataset, spec, batch_size=BATCH_SIZE, seed=0, workers=WORKERS)
    stream = iter(loader)
    next(stream)
    first = time.monotonic()
    drawn = sum(len(batch.keys) for batch in itertools.islice(stream, BATCHES))
    ended = time.monotonic()
    _wait_for_the_parent(
        {
            "open_seconds": round(opened - begun, 3),
            "first_batch_seconds": round(first - opened, 3),
            "clips_per_second": round(drawn / (ended - first), 1),
        }
    )


def open_numbers() -> None:
    """Run a loader of torch's over numbers in this process, with as many workers."""
    import torch
    from torch.utils.data import DataLoader, TensorDataset

    numbers = TensorDataset(torch.arange((BATCHES + 1) * BATCH_SIZE))
    loader = DataLoader(
        numbers, batch_size=BATCH_SIZE, num_workers=WORKERS, persistent_workers=True
    )
    stream = iter(loader)
    drawn = sum(len(batch[0]) for batch in stream)
    _wait_for_the_parent({"clips": drawn})


def _wait_for_the_parent(result: dict[str, Any]) -> None:
    print(json.dumps(result), flush=True)
    sys.stdin.readline()
