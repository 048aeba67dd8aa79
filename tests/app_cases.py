"""The app of ``gopstream view`` as a real server, and datasets of many samples to look at."""

import atexit
import contextlib
import functools
import shutil
import socket
import tempfile
import threading
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet
import uvicorn

from gopstream.jobs.inspection.server import make_app
from gopstream.jobs.publish import SAMPLE_COLUMNS
from gopstream.pipeline.extract import extract_clip
from gopstream.pipeline.options import ExtractionOptions
from gopstream.pipeline.transcode import CanonicalFormat
from gopstream.shards.dataset_files import (
    DatasetFacts,
    Manifest,
    ShardRecord,
    save_dataset,
    save_manifest,
)
from gopstream.shards.layout import dump_json, shard_name
from gopstream.shards.storage import LocalStorage
from gopstream.shards.writer import ShardWriter
from inspection_cases import HOSTILE_LABEL, make_video

CLASSES = ("walk", HOSTILE_LABEL, "run")
NUM_FRAMES = 4
SAMPLES = 2000
SECRET = "nobody else's business"

_FACTS = {"settings": {"mode": "canonical"}, "attributes": {}, "source": {"name": "one.mp4"}}


def make_samples(folder, **splits):
    """Make a dataset ``folder/shards``; sample i of a split has motion i / 100 pixels.

    All samples are the same clip; their class is i modulo 3. Three videos of each split failed.

    Args:
        folder: Where.
        splits: Number of samples of each shard, by the split's name: ``train=[2, 3]``.
    """
    storage = LocalStorage(folder / "shards")
    save_dataset(storage, DatasetFacts(CLASSES, ("frames", "motion"), {"mode": "canonical"}))
    for split, sizes in splits.items():
        _make_split(storage, split, sizes)
    return folder / "shards"


@functools.cache
def large_dataset():
    """A dataset with 2,000 samples in one shard of ``train``, two in ``val``, once for all tests.

    Not to be written to. Next to it lies ``secret.txt``.
    """
    folder = Path(tempfile.mkdtemp(prefix="gopstream-large-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    (folder / "secret.txt").write_text(SECRET)
    return make_samples(folder, train=[SAMPLES], val=[2])


def _make_split(storage, split, sizes):
    records, rows = [], []
    for shard, size in enumerate(sizes):
        name = shard_name(shard)
        numbers = range(len(rows), len(rows) + size)
        with ShardWriter(storage, split, name, with_residual=False) as writer:
            for number in numbers:
                key, label = f"{split}-{number:08d}", number % len(CLASSES)
                writer.add(key, _small_clip(), label=label, facts=_FACTS)
            records.append(ShardRecord(name, size, writer.publish([])))
        rows += [_row(number) | _place(split, name, number) for number in numbers]
    folder = storage.local_root / split
    table = pa.Table.from_pylist(rows, SAMPLE_COLUMNS)
    pyarrow.parquet.write_table(table, folder / "samples.parquet", row_group_size=700)
    failures = [dump_json(_failure(number)) + b"\n" for number in range(3)]
    storage.write(f"{split}/failures.jsonl", b"".join(failures))
    storage.write(f"{split}/plan.json", b"{}")
    counts = {name: len(range(place, len(rows), 3)) for place, name in enumerate(CLASSES)}
    save_manifest(storage, Manifest(split, tuple(records), counts, len(rows) + 3, 3))


@functools.cache
def _small_clip():
    canonical = CanonicalFormat(short_side=64)
    options = ExtractionOptions(canonical=canonical, planes=("frames", "motion"))
    with tempfile.TemporaryDirectory() as folder:
        return extract_clip(make_video(folder, num_frames=NUM_FRAMES), options=options)


def _place(split, shard, number):
    return {"key": f"{split}-{number:08d}", "shard": shard}


def _row(number):
    return {
        "source": f"folder {number % 7}/{number}.mp4",
        "label": number % len(CLASSES),
        "frames": NUM_FRAMES,
        "stored_frames": NUM_FRAMES,
        "fps": 25.0,
        "duration_seconds": None if number == 1 else NUM_FRAMES / 25,
        "width": 64,
        "height": 64,
        "codec": "h264",
        "mean_motion_pixels": number / 100,
        "predicted_share": 0.75,
        "zero_residual_share": np.nan if number % 2 else None,
        "exactness": "exact",
        "damaged_frames": int(number == 5),
        "scene_cuts": 0,
    }


def _failure(number):
    return {
        "key": f"train-9000000{number}",
        "source": f"{HOSTILE_LABEL}/{number}.mp4",
        "stage": "decode" if number else "probe",
        "error": "BitstreamError" if number else "NotAVideoError",
        "message": f"frame {number} is torn",
    }


@contextlib.contextmanager
def running_app(target, *, token=None, **options):
    """Run the app in a thread, on a free port of this machine; yields its address."""
    app = make_app(str(target), token=token, **options)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        config = uvicorn.Config(app, log_level="warning", ws="none", timeout_graceful_shutdown=1)
        server = uvicorn.Server(config)
        thread = threading.Thread(target=server.run, args=([listener],))
        thread.start()
        try:
            yield f"http://127.0.0.1:{listener.getsockname()[1]}"
        finally:
            server.should_exit = True
            thread.join()
