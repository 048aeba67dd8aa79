"""Frames decoded on the device are the worker's; what the device cannot do is refused."""

import pickle
from dataclasses import replace

import hypothesis.strategies as st
import numpy as np
import pytest
import simplejpeg
from hypothesis import given, settings

torch = pytest.importorskip("torch", reason="loading needs torch")

from gopstream.jobs.network import run_network  # noqa: E402
from gopstream.models.catalogue import InputContract  # noqa: E402
from gopstream.shards import ShardDataset, StreamingLoader  # noqa: E402
from gopstream.shards.errors import DamageError  # noqa: E402
from gopstream.shards.loading import device_frames  # noqa: E402
from gopstream.shards.loading.clip_spec import ClipSpec, MotionSpec, View  # noqa: E402
from gopstream.shards.loading.device_frames import (  # noqa: E402
    ClipFrames,
    EncodedClip,
    collate_frames,
    decode_frames,
)
from gopstream.shards.loading.geometry import Box, Geometry  # noqa: E402
from gopstream.shards.loading.loader import view_batches  # noqa: E402
from gopstream.shards.loading.resampling import resample_frames  # noqa: E402
from gopstream.shards.loading.transform_spec import TransformSpec  # noqa: E402

pytestmark = pytest.mark.filterwarnings("ignore:The image decoding:DeprecationWarning")

# Nine of the ten stored frames of a sample at most: clips repeat frames at their end.
SPEC = ClipSpec(
    num_frames=12,
    transform=TransformSpec(size=32, flip=0.5),
    motion=MotionSpec(query_stride=2, subclip_frames=6, grid=4, on="device"),
    frames_on="device",
)
IN_WORKER = replace(SPEC, frames_on="worker")


@pytest.fixture(autouse=True)
def one_thread():
    """Threads of torch wait for each other, for long where other programs run."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def dataset(dataset_root):
    return ShardDataset(dataset_root, "train")


def batches(dataset, spec, *, workers=0, **options):
    loader = StreamingLoader(dataset, spec, batch_size=3, seed=1, workers=workers, **options)
    return list(loader)


def picture(rng, width, height):
    """Waves of all colours: neighbouring pixels differ little, distant ones much."""
    x, y = np.arange(width) / width, np.arange(height)[:, None] / height
    turns, start = rng.uniform(0.5, 1.5, (2, 3)), rng.uniform(0, 6, 3)
    waves = [np.sin(start[i] + 6 * (turns[0, i] * x + turns[1, i] * y)) for i in range(3)]
    return np.rint(127.5 + 120 * np.stack(waves, axis=-1)).astype(np.uint8)


def encode(pixels, colours="420"):
    return simplejpeg.encode_jpeg(
        np.ascontiguousarray(pixels), quality=95, colorsubsampling=colours
    )


def random_clip(rng, *, size, num_frames, colours="420"):
    """Frames of any size, some shown again, through any crop."""
    width, height = rng.integers(16, 80, 2).tolist()
    across, down = int(rng.integers(2, width + 1)), int(rng.integers(2, height + 1))
    if rng.random() < 0.3 and size <= min(width, height):
        across = down = size
    left, top = int(rng.integers(width - across + 1)), int(rng.integers(height - down + 1))
    shown, places = np.unique(np.sort(rng.integers(0, 9, num_frames)), return_inverse=True)
    frames = ClipFrames(
        where="shard s, sample k",
        numbers=tuple(shown.tolist()),
        places=tuple(places.tolist()),
        frame_size=(width, height),
        geometry=Geometry(Box(left, top, across, down), size, bool(rng.random() < 0.5)),
    )
    return EncodedClip([encode(picture(rng, width, height), colours) for _ in shown], frames)


def worker_frames(clip, *, repeat_colours=False):
    """Return (3, T, size, size) as the worker makes them."""
    size = clip.frames.geometry.size
    decoded = np.stack(
        [simplejpeg.decode_jpeg(jpeg, fastupsample=repeat_colours) for jpeg in clip.jpegs]
    )
    out = np.empty((len(clip.frames.places), size, size, 3), np.uint8)
    places = list(clip.frames.places)
    resample_frames(decoded[places], clip.frames.geometry, fill=0, out=out)
    return torch.from_numpy(out).permute(3, 0, 1, 2)


@given(seed=st.integers(0, 2**32 - 1))
@settings(max_examples=40)
def test_frames_are_the_workers_in_every_bit(seed):
    rng = np.random.default_rng(seed)
    size, num_frames = int(rng.integers(4, 70)), int(rng.integers(1, 6))
    clips = [random_clip(rng, size=size, num_frames=num_frames) for _ in range(3)]
    frames = decode_frames(collate_frames(clips), "cpu")
    assert (frames.shape, frames.dtype) == ((3, 3, num_frames, size, size), torch.uint8)
    assert frames.permute(0, 2, 3, 4, 1).is_contiguous()
    for clip, own in zip(clips, frames, strict=True):
        assert torch.equal(own, worker_frames(clip))


@pytest.mark.parametrize("workers", [0, 2])
def test_batches_are_those_of_the_worker(dataset, workers):
    """Over sizes that differ, crops, flips, repeated frames, and motion made on the device."""
    ours, expected = batches(dataset, SPEC, workers=workers), batches(dataset, IN_WORKER)
    assert len(ours) == 2
    for batch, other in zip(ours, expected, strict=True):
        assert any(len(clip.numbers) < len(clip.places) for clip in batch.jpegs.clips)
        decoded = batch.decoded("cpu")
        assert decoded.jpegs is None
        assert decoded.keys == other.keys
        assert torch.equal(decoded.frames, other.frames)
        assert decoded.frames.stride() == other.frames.stride()
        motion = decoded.accumulated(query_stride=2).motion
        assert torch.equal(motion, other.accumulated(query_stride=2).motion)


def test_views_are_those_of_the_worker(dataset):
    views = [View(0, 1, crop, 3) for crop in range(3)]
    ours = view_batches(dataset, SPEC, batch_size=9, views=views)
    for batch, other in zip(
        ours, view_batches(dataset, IN_WORKER, batch_size=9, views=views), strict=True
    ):
        assert torch.equal(batch.decoded("cpu").frames, other.frames)


def test_a_network_is_fed_the_same_frames(dataset):
    class Flat(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.gain = torch.nn.Parameter(torch.ones(()))

        def forward(self, frames):
            return self.gain * frames.flatten(1)

    contract = InputContract(
        planes=("frames",),
        num_frames=SPEC.num_frames,
        frame_stride=1,
        size=SPEC.transform.size,
        mean=(0.5, 0.4, 0.3),
        std=(0.2, 0.3, 0.4),
        query_stride=None,
        subclip_frames=None,
    )
    [ours, _], [other, _] = batches(dataset, SPEC), batches(dataset, IN_WORKER)
    network = Flat()
    fed, expected = (run_network(network, batch, contract=contract) for batch in (ours, other))
    assert torch.equal(fed, expected)


def test_frames_before_they_are_decoded_are_refused(dataset):
    batch = batches(dataset, SPEC)[0]
    with pytest.raises(ValueError, match=r"decoded\(device\) first"):
        _ = batch.frames
    assert batches(dataset, IN_WORKER)[0].decoded("cpu").jpegs is None


def test_jpegs_stay_in_memory_of_the_cpu(dataset):
    """The decoder takes them from there, whatever device decodes."""
    batch = batches(dataset, SPEC)[0]
    moved = batch.to("meta")
    assert moved.labels.device.type == "meta"
    assert moved.jpegs.content.device.type == "cpu"
    assert torch.equal(moved.decoded("cpu").frames, batch.decoded("cpu").frames)


def test_a_batch_holds_each_jpeg_once_and_little_else(dataset):
    jpegs = batches(dataset, SPEC)[0].jpegs
    shown = sum(len(clip.numbers) for clip in jpegs.clips)
    assert len(jpegs.lengths) == shown < 3 * SPEC.num_frames
    assert jpegs.num_bytes == sum(jpegs.lengths)
    pickled = pickle.dumps(jpegs)
    assert len(pickled) < jpegs.num_bytes + 3000
    frames = decode_frames(pickle.loads(pickled), "cpu")  # noqa: S301 - our own
    assert torch.equal(frames, decode_frames(jpegs, "cpu"))


def test_clips_decoded_group_by_group_are_the_same(monkeypatch):
    rng = np.random.default_rng(0)
    clips = [random_clip(rng, size=16, num_frames=4) for _ in range(5)]
    batch = collate_frames(clips)
    whole = decode_frames(batch, "cpu")
    widths = [3 * np.prod(clip.frame_size) * len(clip.numbers) for clip in batch.clips]
    for limit in (1, int(sum(widths[:2])), int(max(widths))):
        monkeypatch.setattr(device_frames, "_DECODED_BYTES", limit)
        groups = [list(rows) for rows in device_frames._groups(batch.clips)]
        assert sum(groups, []) == list(range(5))
        assert all(len(rows) == 1 or sum(widths[row] for row in rows) <= limit for rows in groups)
        assert 1 < len(groups) <= 5
        assert torch.equal(decode_frames(batch, "cpu"), whole)


def test_a_jpeg_that_does_not_decode_is_named():
    rng = np.random.default_rng(3)
    clips = [random_clip(rng, size=8, num_frames=4) for _ in range(3)]
    clip = clips[1]
    clip.jpegs[-1] = clip.jpegs[-1][:-40]
    clips[1] = clip._replace(frames=clip.frames._replace(where="shard a/b, sample c"))
    number = clip.frames.numbers[-1]
    message = f"shard a/b, sample c: JPEG {number} does not decode: Premature end"
    with pytest.raises(DamageError, match=message):
        decode_frames(collate_frames(clips), "cpu")


def test_a_jpeg_of_another_size_is_named():
    rng = np.random.default_rng(4)
    clip = random_clip(rng, size=8, num_frames=2)
    width, height = clip.frames.frame_size
    clip.jpegs[-1] = encode(picture(rng, width + 2, height))
    number = clip.frames.numbers[-1]
    message = f"sample k: JPEG {number} .* it is {width + 2}x{height}, not {width}x{height}"
    with pytest.raises(DamageError, match=message):
        decode_frames(collate_frames([clip]), "cpu")


@pytest.mark.parametrize("workers", [0, 2])
def test_changed_bytes_are_found_by_the_worker(own_root, workers):
    """By their checksum, so that such clips can be left out before the device sees them."""
    dataset = ShardDataset(own_root, "train")
    shard = dataset.manifest.shards[0].name
    tar = own_root / "train" / f"{shard}.tar"
    content = bytearray(tar.read_bytes())
    for jpeg in dataset.read_jpegs(0, np.arange(dataset.sample(0).num_frames // 2)):
        content[content.index(bytes(jpeg)) + 300] ^= 1
    tar.write_bytes(content)
    with pytest.raises(DamageError, match=f"{shard}, sample {dataset.key(0)}: frames from frame 0"):
        batches(dataset, SPEC, workers=workers)
    with pytest.warns(UserWarning, match="a clip was left out"):
        left = batches(dataset, SPEC, workers=workers, on_error="skip", last="fill")
    keys = [key for batch in left for key in batch.keys]
    assert set(keys) == set(dataset.keys[1:])
    for batch in left:
        assert len(batch.decoded("cpu").frames) == len(batch.keys) == len(batch.jpegs.clips)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("policy", "rand-m7-n4"),
        ("jitter", 0.8),
        ("greyscale", 0.1),
        ("blur", 0.1),
        ("erase", 0.25),
    ],
)
def test_changes_of_appearance_are_refused_by_name(field, value):
    strength = {"contrast": 0.4} if field == "jitter" else {}
    transform = replace(SPEC.transform, **{field: value}, **strength)
    with pytest.raises(ValueError, match=f"leave out {field} of the transform"):
        replace(SPEC, transform=transform)
    assert replace(IN_WORKER, transform=transform).transform == transform


def test_all_changes_are_named_at_once():
    transform = replace(SPEC.transform, jitter=0.5, contrast=0.4, erase=0.1)
    with pytest.raises(ValueError, match="leave out jitter, erase of"):
        replace(SPEC, transform=transform)


def test_another_place_is_refused():
    with pytest.raises(ValueError, match="frames_on must be one of worker, device, got 'gpu'"):
        replace(SPEC, frames_on="gpu")


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("colours", ["444", "420"])
def test_a_cuda_device_shows_the_same_within_a_level(colours):
    """In the mean, and within 8 at any pixel; but colours at 4:2:0 are not interpolated."""
    rng = np.random.default_rng(5)
    for size in (16, 48, 70):
        clips = [random_clip(rng, size=size, num_frames=4, colours=colours) for _ in range(6)]
        frames = decode_frames(collate_frames(clips), "cuda")
        assert frames.device.type == "cuda"
        for clip, own in zip(clips, frames.cpu(), strict=True):
            expected = worker_frames(clip, repeat_colours=colours == "420")
            difference = (own.float() - expected.float()).abs()
            assert difference.mean() <= 1
            assert difference.max() <= 8


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_a_cuda_device_leaves_alone_what_is_still_being_read():
    """The decoder does not wait for kernels that read memory which was just given back."""
    rng = np.random.default_rng(6)
    clips = [random_clip(rng, size=48, num_frames=4) for _ in range(8)]
    batch = collate_frames(clips)
    decode_frames(batch, "cuda")
    for _ in range(20):
        given_back = [torch.full((1 << 16,), 7, dtype=torch.uint8, device="cuda") for _ in clips]
        torch.cuda.synchronize()
        torch.cuda._sleep(20_000_000)
        sums = torch.stack([tensor.sum() for tensor in given_back])
        del given_back
        decode_frames(batch, "cuda")
        assert (sums.cpu() == 7 << 16).all()
