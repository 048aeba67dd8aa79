"""Optical flow in place of the codec's motion: a dataset that the same loader reads."""

import numpy as np
import pytest

pytest.importorskip("skimage", reason="flow needs scikit-image")
torch = pytest.importorskip("torch", reason="loading needs torch")

from gopstream.jobs.bench.flow_motion import (  # noqa: E402
    block_motion,
    frame_flow,
    write_flow_dataset,
)
from gopstream.jobs.preprocess import shard_folder  # noqa: E402
from gopstream.pipeline.options import ExtractionOptions  # noqa: E402
from gopstream.pipeline.transcode import CanonicalFormat  # noqa: E402
from gopstream.shards import (  # noqa: E402
    ClipSpec,
    MotionSpec,
    ShardDataset,
    TransformSpec,
    View,
    view_batches,
)
from gopstream.shards.errors import ShardError  # noqa: E402

VELOCITY = (3, 1)
NUM_FRAMES = 15
GOP = 6


@pytest.fixture(scope="module")
def roots(tmp_path_factory, write_video):
    """(codec's dataset, copy with flow) of two short videos of 64x48."""
    folder = tmp_path_factory.mktemp("flow")
    for name in ("a", "b"):
        (folder / "videos" / name).mkdir(parents=True)
        path = folder / "videos" / name / "0.mp4"
        write_video(path, NUM_FRAMES, width=64, height=48, velocity=VELOCITY, seed=ord(name))
    options = ExtractionOptions(canonical=CanonicalFormat(gop=GOP))
    shard_folder(folder / "videos", folder / "codec", options=options)
    write_flow_dataset(folder / "codec", folder / "flow")
    return folder / "codec", folder / "flow"


def smooth_noise(height, width):
    rng = np.random.default_rng(2)
    rows, columns = np.fft.fftfreq(height)[:, None], np.fft.rfftfreq(width)[None]
    spectrum = np.fft.rfft2(rng.standard_normal((height, width)))
    spectrum *= np.exp(-((np.hypot(rows, columns) / 0.06) ** 2))
    waves = np.fft.irfft2(spectrum, s=(height, width))
    return np.clip(127 + 50 * waves / waves.std(), 0, 255).astype(np.uint8)


def test_flow_leads_to_where_the_content_was():
    """The frame before shows 2 pixels to the right and 1 up what the frame shows."""
    texture = smooth_noise(96, 96)
    frame, before = texture[16:80, 16:80], texture[17:81, 14:78]
    inner = frame_flow(frame, before)[8:-8, 8:-8]
    np.testing.assert_allclose(np.median(inner, axis=(0, 1)), (2.0, -1.0), atol=0.05)


def test_a_block_has_the_mean_of_its_pixels_in_quarter_pixels():
    flow = np.random.default_rng(0).normal(0, 3, (20, 28, 2)).astype(np.float32)
    motion = block_motion(flow, grid=(4, 4))
    assert (motion.dtype, motion.shape) == (np.int16, (4, 4, 2))
    expected = np.rint(4 * flow[8:16, 16:24].astype(np.float64).mean(axis=(0, 1)))
    np.testing.assert_array_equal(motion[1, 2], expected)
    # Rows 16 to 19 are shown; the last of them stands for those below.
    rows = flow[[16, 17, 18, 19, 19, 19, 19, 19]][:, :8].astype(np.float64)
    np.testing.assert_array_equal(motion[2, 0], np.rint(4 * rows.mean(axis=(0, 1))))


def test_every_block_is_predicted_and_no_i_frame_is_left(roots):
    dataset = ShardDataset(roots[1], "train")
    assert dataset.facts.planes == ("frames", "motion")
    for position in range(2):
        window = dataset.read_motion(position, 0, NUM_FRAMES - 1)
        assert window.coverage[1:].all()
        assert window.is_intra_frame.tolist() == [True] + [False] * (NUM_FRAMES - 1)
        assert not window.motion[0].any()
        # Also at frames 6 and 12, which the codec coded by themselves.
        moved = window.motion[[5, 6, 12], 0, 1:-1, 1:-1].reshape(3, -1, 2)
        np.testing.assert_allclose(np.median(moved, axis=1), [[-12, -4]] * 3, atol=1)


def test_labels_keys_frames_and_json_are_the_same(roots):
    codec, flow = (ShardDataset(root, "train") for root in roots)
    assert flow.keys == codec.keys
    assert flow.labels.tolist() == codec.labels.tolist()
    assert flow.classes == codec.classes
    numbers = np.arange(NUM_FRAMES)
    for position in range(2):
        one, other = (
            [bytes(jpeg) for jpeg in dataset.read_jpegs(position, numbers)]
            for dataset in (codec, flow)
        )
        assert one == other
        one, other = codec.read_json(position), flow.read_json(position)
        assert "optical flow" in other["exactness"]
        for name in ("class", "source", "settings", "pts", "frame_index_of_jpeg"):
            assert other[name] == one[name], name


def test_the_same_loader_gives_the_same_frames_and_flow_for_motion(roots):
    spec = ClipSpec(
        num_frames=4,
        stride=4,
        transform=TransformSpec(size=48, crop="centre"),
        motion=MotionSpec(query_stride=2, subclip_frames=4, grid=6),
    )
    codec, flow = (
        next(
            iter(
                view_batches(
                    ShardDataset(root, "train"), spec, batch_size=2, views=[View(0, 1, 0, 1)]
                )
            )
        )
        for root in roots
    )
    assert torch.equal(flow.frames, codec.frames)
    # From the third frame to the first, eight stored frames back.
    back = flow.motion[:, 1, :, 0][flow.valid[:, 1, 0][:, None].expand(-1, 2, -1, -1)]
    assert back.numel() > 0
    inner = flow.motion[:, 1, :, 0, 2:5, 3:5].flatten(2).median(dim=2).values
    torch.testing.assert_close(inner, torch.tensor([[-24.0, -8.0]] * 2), atol=1.5, rtol=0)


def test_a_finished_split_is_not_made_again(roots):
    before = {path: path.stat().st_mtime_ns for path in sorted((roots[1] / "train").iterdir())}
    write_flow_dataset(*roots)
    assert {path: path.stat().st_mtime_ns for path in sorted((roots[1] / "train").iterdir())} == (
        before
    )


def test_processes_make_the_same_files(roots, tmp_path):
    write_flow_dataset(roots[0], tmp_path / "two", workers=2)
    for path in sorted((roots[1] / "train").iterdir()):
        assert (tmp_path / "two" / "train" / path.name).read_bytes() == path.read_bytes(), path.name


def test_a_dataset_without_residual_is_refused(roots, tmp_path):
    with pytest.raises(ShardError, match="no residual"):
        write_flow_dataset(roots[1], tmp_path / "again")
