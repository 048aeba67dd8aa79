"""The RGB-R cue: nothing is left of what is followed, and all else is a plain float64 reference.

Numbers are those of the properties in the specification of the Deformable Video Transformer.
"""

import subprocess
from fractions import Fraction

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="loading needs torch")

from PIL import Image  # noqa: E402

from gopstream.jobs.preprocess import shard_folder  # noqa: E402
from gopstream.pipeline.accumulation import CellMotion, accumulate, step_motion  # noqa: E402
from gopstream.pipeline.clip import Clip, ClipResidual  # noqa: E402
from gopstream.pipeline.grid import Planes  # noqa: E402
from gopstream.pipeline.jpeg import encode_frame  # noqa: E402
from gopstream.pipeline.options import ExtractionOptions  # noqa: E402
from gopstream.pipeline.plain.compensation import predict_planes  # noqa: E402
from gopstream.pipeline.plain.residual import residual_between  # noqa: E402
from gopstream.pipeline.probe import open_video  # noqa: E402
from gopstream.pipeline.transcode import (  # noqa: E402
    CanonicalFormat,
    canonical_command,
    default_ffmpeg,
)
from gopstream.shards import (  # noqa: E402
    ClipSpec,
    MotionSpec,
    RgbResidualSpec,
    ShardDataset,
    StreamingLoader,
    TransformSpec,
    View,
    view_batches,
)
from gopstream.shards.dataset_files import (  # noqa: E402
    DatasetFacts,
    Manifest,
    ShardRecord,
    save_dataset,
    save_manifest,
)
from gopstream.shards.edit_planes import drop_plane  # noqa: E402
from gopstream.shards.errors import DamageError, ShardError  # noqa: E402
from gopstream.shards.loading.geometry import Box, Geometry, with_warp  # noqa: E402
from gopstream.shards.loading.resampling import resample_plane  # noqa: E402
from gopstream.shards.loading.rgb_residual import write_rgb_residual  # noqa: E402
from gopstream.shards.loading.transform import ClipTransform  # noqa: E402
from gopstream.shards.local_storage import LocalStorage  # noqa: E402
from gopstream.shards.sample_parts import SampleFacts  # noqa: E402
from gopstream.shards.writer import ShardWriter  # noqa: E402

WIDTH, HEIGHT, FRAMES, GOP = 96, 64, 18, 6
PLANES = ("frames", "motion", "residual")
CENTRE = View(0, 1, 0, 1)


def spec_of(**more):
    """Clips of frames 0, 4, 8, 12 of a sample of 18 frames: three I-frames lie on the way."""
    given = {
        "num_frames": 4,
        "stride": 4,
        "view_rule": "starts",
        "transform": TransformSpec(size=64, crop="centre"),
        "rgb_residual": RgbResidualSpec(query_stride=2, subclip_frames=4),
    }
    return ClipSpec(**{**given, **more})


def made_clip(velocity, *, told=None):
    """Code without loss a texture that moves, by vectors that say so, or say something else."""
    rng = np.random.default_rng(5)
    sides = (HEIGHT + 80, WIDTH + 160)
    luma = rng.integers(16, 236, sides).astype(np.uint8)
    chroma = [rng.integers(16, 241, (sides[0] // 2, sides[1] // 2)).astype(np.uint8) for _ in "br"]
    right, down = (-speed if told is None else -told[axis] for axis, speed in enumerate(velocity))
    grid = (HEIGHT // 8, WIDTH // 8)
    motion = np.zeros((FRAMES, 1, *grid, 2), np.int16)
    coverage = np.ones((FRAMES, 1, *grid), np.uint8)
    motion[:] = 4 * right, 4 * down
    coverage[::GOP] = motion[::GOP] = 0
    residuals, exceptions, jpegs, reference = [], [], [], None
    for frame in range(FRAMES):
        x, y = 80 - velocity[0] * frame, 40 - velocity[1] * frame
        parts = [luma[y : y + HEIGHT, x : x + WIDTH]]
        parts += [plane[y // 2 : (y + HEIGHT) // 2, x // 2 : (x + WIDTH) // 2] for plane in chroma]
        decoded = Planes(*parts)
        predicted = predict_planes(reference or decoded, motion[frame, 0], coverage[frame, 0])
        residual = residual_between(decoded, predicted)
        listed = residual.exceptions
        exceptions.append(np.concatenate([np.full((len(listed), 1), frame), listed], axis=1))
        flat = np.concatenate([plane.ravel() for plane in residual.planes])
        residuals.append(flat)
        picture = np.concatenate([plane.ravel() for plane in decoded]).reshape(-1, WIDTH)
        jpegs.append(encode_frame(picture, matrix="smpte170m", quality=95))
        reference = decoded
    return Clip(
        jpegs=jpegs,
        frame_index_of_jpeg=np.arange(FRAMES, dtype=np.int32),
        motion=motion,
        coverage=coverage,
        residual=ClipResidual(
            np.stack(residuals), np.concatenate(exceptions).astype(np.int32), 0.0
        ),
        decoded_sha256=[],
        kinds=("I" + "P" * (GOP - 1)) * (FRAMES // GOP),
        pts=np.arange(FRAMES, dtype=np.int64),
        time_base=Fraction(1, 25),
        coded_size=(WIDTH, HEIGHT),
        display_rect=(0, 0, WIDTH, HEIGHT),
        frame_size=(WIDTH, HEIGHT),
        first_frame=0,
        chunk_starts=tuple(range(0, FRAMES, GOP)),
        exactness="exact",
    )


def dataset_of(clip, root, *, matrix="smpte170m"):
    storage = LocalStorage(root)
    source = {"full_range": False} | ({} if matrix is None else {"matrix": matrix})
    with ShardWriter(storage, "train", "000000", with_residual=True) as writer:
        writer.add("a", clip, label=0, facts={"source": source, "settings": {"mode": "canonical"}})
        files = writer.publish([])
    save_dataset(storage, DatasetFacts(("one",), PLANES, {"mode": "canonical"}))
    manifest = Manifest("train", (ShardRecord("000000", 1, files),), {"one": 1}, 1, 0)
    save_manifest(storage, manifest)
    return ShardDataset(root, "train")


def only_batch(dataset, spec, **more):
    (batch,) = view_batches(dataset, spec, batch_size=1, views=[CENTRE], **more)
    return batch


def known(batch):
    """Return (B, Q, 3, J, H, W) where the residual is valid."""
    return batch.rgb_valid[:, :, None].expand_as(batch.rgb_residual)


def test_a_batch_has_the_stated_shapes_and_types(tmp_path):
    batch = only_batch(dataset_of(made_clip((4, -2)), tmp_path), spec_of())
    assert (batch.rgb_residual.shape, batch.rgb_residual.dtype) == (
        (1, 2, 3, 4, 64, 64),
        torch.float16,
    )
    assert (batch.rgb_valid.shape, batch.rgb_valid.dtype) == ((1, 2, 4, 64, 64), torch.bool)
    assert batch.motion is None and batch.residual is None


def test_21_an_integer_translation_leaves_nothing_across_gops(tmp_path):
    """Property 21. Frames 0 to 12 cross the I-frames 6 and 12, which have no vectors."""
    batch = only_batch(dataset_of(made_clip((4, -2)), tmp_path), spec_of())
    assert not batch.rgb_residual.any()
    # From frame 8 to frame 12 content leaves by 16 pixels at the right and 8 at the top.
    assert batch.rgb_valid[0, 1, 3, 8:, :].float().mean() > 0.9
    assert batch.rgb_valid[0].any(dim=(-2, -1)).all()


def test_a_query_is_compared_with_the_frames_of_its_own_sub_clip(tmp_path):
    """Frames 0 and 4, and frames 8 and 12: of each query and itself nothing is left."""
    pairs = RgbResidualSpec(query_stride=1, subclip_frames=2)
    wrong = dataset_of(made_clip((4, -2), told=(4, 2)), tmp_path / "wrong")
    batch = only_batch(wrong, spec_of(rgb_residual=pairs))
    assert batch.rgb_residual.shape == (1, 4, 3, 2, 64, 64)
    left = batch.rgb_residual[0].abs().mean(dim=(1, 3, 4), dtype=torch.float32)
    assert (left > 5).tolist() == [[False, True], [True, False]] * 2
    right = dataset_of(made_clip((4, -2)), tmp_path / "right")
    assert not only_batch(right, spec_of(rgb_residual=pairs)).rgb_residual.any()


def test_a_pixel_is_known_if_half_of_what_it_shows_is(tmp_path):
    dataset = dataset_of(made_clip((4, -2)), tmp_path)
    whole = only_batch(dataset, spec_of()).rgb_valid[0].flatten(0, 1).numpy().astype(np.int16)
    half = only_batch(dataset, spec_of(transform=TransformSpec(size=32, crop="centre")))
    box = Geometry(Box(0, 0, 64, 64), 32)
    share = resample_plane(whole, box, to_plane=np.eye(2, 3))
    expected = (share >= 0.5).view(half.rgb_valid.shape)
    assert torch.equal(half.rgb_valid, expected)
    assert not torch.equal(expected, (share >= 0.9).view(expected.shape))


def test_what_cropping_hides_on_the_left_stays_hidden():
    """The coded picture goes on beyond the frame that a shift by 10 pixels leaves."""
    rng = np.random.default_rng(0)
    decoded = Planes(
        *(rng.integers(0, 256, (2, 64 // n, 96 // n)).astype(np.uint8) for n in (1, 2, 2))
    )
    still = CellMotion(np.zeros((1, 2, 2, 8, 12), np.float32), np.ones((1, 2, 8, 12), np.bool_))
    shifted = with_warp(
        Geometry(Box(0, 0, 64, 64), 64), np.array([[1.0, 0.0, -10.0], [0.0, 1.0, 0.0]])
    )
    out = {
        "rgb_residual": np.ones((1, 3, 2, 64, 64), np.float16),
        "rgb_valid": np.ones((1, 2, 64, 64), np.bool_),
    }
    write_rgb_residual(
        decoded,
        still,
        queries=[0],
        transform=ClipTransform(shifted, 0),
        facts=SampleFacts(2, (96, 64), (16, 0, 80, 64), (80, 64), np.arange(2, dtype=np.int32)),
        to_rgb=np.eye(3, dtype=np.float32),
        out=out,
    )
    assert not out["rgb_valid"][..., :10].any() and not out["rgb_residual"][..., :10].any()
    assert out["rgb_valid"][..., 10:].all()
    luma = decoded.y.astype(int)
    expected = luma[0, :, 16:70] - luma[1, :, 16:70]
    np.testing.assert_allclose(out["rgb_residual"][0, 0, 1, :, 10:], expected, atol=0.01)


def test_wrong_motion_leaves_a_lot(tmp_path):
    batch = only_batch(dataset_of(made_clip((4, -2), told=(4, 2)), tmp_path), spec_of())
    moved = [(0, 1), (0, 2), (0, 3), (1, 0), (1, 1), (1, 3)]
    for query, other in moved:
        valid = batch.rgb_valid[0, query, other]
        assert batch.rgb_residual[0, query, :, other][:, valid].abs().mean() > 30


def test_a_static_video_leaves_nothing_anywhere(tmp_path):
    batch = only_batch(dataset_of(made_clip((0, 0)), tmp_path), spec_of())
    assert not batch.rgb_residual.any()
    assert batch.rgb_valid.all()


def test_a_frame_and_itself_leave_nothing_whatever_moves(tmp_path):
    batch = only_batch(dataset_of(made_clip((4, -2), told=(-4, 6)), tmp_path), spec_of())
    for query, frame in enumerate((0, 2)):
        assert not batch.rgb_residual[0, query, :, frame].any()
        assert batch.rgb_valid[0, query, frame].all()


@pytest.mark.parametrize(
    "transform",
    [
        TransformSpec(size=40, flip=1.0),
        TransformSpec(size=48, crop_scale=(0.2, 0.5), policy="rand-m9-n4-p1"),
    ],
    ids=["flip and resize", "rotation and shear"],
)
def test_21_nothing_is_left_after_any_geometry(tmp_path, transform):
    dataset = dataset_of(made_clip((4, -2)), tmp_path)
    for seed in range(3):
        loader = StreamingLoader(dataset, spec_of(transform=transform), batch_size=1, seed=seed)
        batch = next(iter(loader))
        assert not batch.rgb_residual.any()
        assert batch.rgb_valid.any()


def test_it_follows_the_crop_and_the_flip_as_frames_do(tmp_path):
    """Between flipped frames the residual is the flipped residual."""
    dataset = dataset_of(made_clip((4, -2), told=(4, 2)), tmp_path)
    plain = TransformSpec(size=64, crop="random", flip=0.0)
    mirrored = TransformSpec(size=64, crop="random", flip=1.0)
    one, other = (
        next(iter(StreamingLoader(dataset, spec_of(transform=kind), batch_size=1, seed=4)))
        for kind in (plain, mirrored)
    )
    assert torch.equal(one.frames.flip(-1), other.frames)
    assert torch.equal(one.rgb_valid.flip(-1), other.rgb_valid)
    assert torch.equal(one.rgb_residual.flip(-1), other.rgb_residual)


def test_other_planes_of_the_clip_stay_as_they_are_without_it(tmp_path):
    """The residual that is read from the I-frame on does not shift the clip's own."""
    more = {
        "residual": True,
        "view_rule": "ends",
        "motion": MotionSpec(query_stride=2, subclip_frames=4, grid=8),
    }
    dataset = dataset_of(made_clip((4, -2), told=(4, 2)), tmp_path)
    views = [View(1, 2, 0, 1)]  # begins at frame 5, in the middle of a GOP
    with_it, without = (
        next(iter(view_batches(dataset, spec_of(**more, **cue), batch_size=1, views=views)))
        for cue in ({}, {"rgb_residual": None})
    )
    for name in ("frames", "residual", "motion", "valid"):
        assert torch.equal(getattr(with_it, name), getattr(without, name)), name
    assert without.rgb_residual is None and without.residual.any()


def test_workers_give_the_same_as_none(tmp_path):
    dataset = dataset_of(made_clip((4, -2), told=(4, 2)), tmp_path)
    alone, together = (
        next(iter(StreamingLoader(dataset, spec_of(), batch_size=1, seed=1, workers=workers)))
        for workers in (0, 1)
    )
    assert alone.rgb_residual.any()
    assert torch.equal(alone.rgb_residual, together.rgb_residual)
    assert torch.equal(alone.rgb_valid, together.rgb_valid)


def test_a_dataset_without_the_residual_is_refused(tmp_path):
    dataset_of(made_clip((4, -2)), tmp_path)
    drop_plane(LocalStorage(tmp_path), "residual", ["train"])
    dataset = ShardDataset(tmp_path, "train")
    problem = "no residual plane .*, and the ClipSpec asks for the rgb_residual"
    with pytest.raises(ShardError, match=problem):
        StreamingLoader(dataset, spec_of(), batch_size=1, seed=0)


def test_a_sample_that_does_not_say_its_colours_is_named(tmp_path):
    dataset = dataset_of(made_clip((4, -2)), tmp_path, matrix=None)
    with pytest.raises(DamageError, match=r"sample a: the json does not say the colours"):
        only_batch(dataset, spec_of())
    assert not only_batch(dataset, spec_of(), on_error="skip").keys


def test_the_colours_are_those_of_the_matrix_that_the_sample_names(tmp_path):
    batches = [
        only_batch(
            dataset_of(made_clip((4, -2), told=(4, 2)), tmp_path / matrix, matrix=matrix),
            spec_of(),
        )
        for matrix in ("smpte170m", "bt709")
    ]
    assert torch.equal(batches[0].rgb_valid, batches[1].rgb_valid)
    assert (batches[0].rgb_residual - batches[1].rgb_residual).abs().max() > 5


@pytest.mark.parametrize(
    ("more", "problem"),
    [
        ({"num_frames": 6}, "6 frames do not divide into sub-clips of 4"),
        ({"overrun": "loop"}, "overrun must be last"),
    ],
)
def test_pairs_that_cannot_be_meant_are_refused(more, problem):
    with pytest.raises(ValueError, match=problem):
        spec_of(**more)


def test_a_query_stride_below_one_is_refused():
    with pytest.raises(ValueError, match="must be at least 1, got 0, 4"):
        RgbResidualSpec(query_stride=0, subclip_frames=4)


# A real video, decoded by FFmpeg to PNG files, against the definition in float64.

SIDE = 112


@pytest.fixture(scope="module")
def real(tmp_path_factory, real_videos):
    """(dataset, planes) of two seconds: Y, Cb and Cr of each frame in float64."""
    folder = tmp_path_factory.mktemp("real")
    video = folder / "videos" / "one" / "cut.mp4"
    video.parent.mkdir(parents=True)
    command = [default_ffmpeg(), "-v", "error", "-i", real_videos["goat_256.mp4"]]
    subprocess.run([*command, "-t", "2", "-c", "copy", video], check=True)
    canonical = CanonicalFormat(short_side=SIDE)
    shard_folder(video.parents[1], folder / "set", options=ExtractionOptions(canonical=canonical))
    stream = folder / "stream.mkv"
    command = canonical_command(
        open_video(video), stream, canonical=canonical, binary=default_ffmpeg()
    )
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    return ShardDataset(folder / "set", "train"), decoded_planes(stream, folder)


def decoded_planes(stream, folder):
    planes = []
    for plane in "yuv":
        command = [default_ffmpeg(), "-v", "error", "-i", stream, "-vf", f"extractplanes={plane}"]
        subprocess.run(
            [*command, "-fps_mode", "passthrough", folder / f"{plane}%d.png"], check=True
        )
        count = len(list(folder.glob(f"{plane}*.png")))
        pictures = [Image.open(folder / f"{plane}{n}.png") for n in range(1, count + 1)]
        planes.append(np.stack([np.asarray(picture, np.float64) for picture in pictures]))
    return planes


def reference_pair(planes, pair, displacement, followed):
    """Return (3, H, W) and (H, W) by the definition, with MD the same all over a block."""
    results, shares = [], []
    for plane, side in zip(planes, (8, 4, 4), strict=True):
        frame, other = plane[pair[0]], plane[pair[1]]
        height, width = frame.shape
        result, share = np.zeros(frame.shape), np.zeros(frame.shape)
        for y, x in np.ndindex(height, width):
            block = y // side, x // side
            dx, dy = displacement[block].astype(np.float64) * side / 8
            v, u = int(np.floor(y + dy + 0.5)), int(np.floor(x + dx + 0.5))
            if followed[block] and 0 <= v < height and 0 <= u < width:
                result[y, x], share[y, x] = frame[y, x] - other[v, u], 1.0
        results.append(result)
        shares.append(share)
    return results, shares


def upsampled(plane):
    """Double a plane bilinearly, samples being centred; the border repeats."""
    for axis in (0, 1):
        size = plane.shape[axis]
        before = np.take(plane, np.maximum(np.arange(size) - 1, 0), axis)
        after = np.take(plane, np.minimum(np.arange(size) + 1, size - 1), axis)
        pair = [0.75 * plane + 0.25 * before, 0.75 * plane + 0.25 * after]
        shape = list(plane.shape)
        shape[axis] *= 2
        plane = np.stack(pair, axis=axis + 1).reshape(shape)
    return plane


def test_a_real_video_equals_the_reference_from_its_decoded_frames(real):
    """One clip across two I-frames, its pixels uncropped in height and central in width."""
    dataset, planes = real
    content = dataset.read_json(0)
    facts = dataset.sample(0)
    width, height = facts.frame_size
    assert min(width, height) == SIDE
    left, top = (width - SIDE) // 2 // 2 * 2, (height - SIDE) // 2 // 2 * 2
    assert (left, top) == ((width - SIDE) // 2, (height - SIDE) // 2), "chroma must not be cut"
    first, sampled = 9, np.array([9, 14, 19, 24])
    assert {12, 24} <= {n for n, kind in enumerate(content["frame_types"]) if kind == "I"}
    batch = clip_at(dataset, first, stride=5)
    window = dataset.read_motion(0, first, int(sampled[-1]) + 1)
    step = step_motion(
        window.motion[:, 0],
        window.coverage[:, 0],
        window.is_intra_frame,
        scene_cuts=window.is_scene_cut,
    )
    motion = accumulate(
        step, (sampled - window.first_frame)[None], display_size=facts.display_rect[2:]
    )
    crop = (slice(top, top + SIDE), slice(left, left + SIDE))
    half = tuple(slice(part.start // 2, part.stop // 2) for part in crop)
    for number, query in enumerate((0, 2)):
        for other in range(4):
            pair = (sampled[query], sampled[other])
            at = (0, query, other)
            found, shares = reference_pair(planes, pair, motion.displacement[at], motion.valid[at])
            full = [found[0][crop], *(upsampled(plane[half]) for plane in found[1:])]
            weight = [shares[0][crop], *(upsampled(plane[half]) for plane in shares[1:])]
            y, cb, cr = (
                np.divide(value, part, out=np.zeros_like(value), where=part > 0)
                for value, part in zip(full, weight, strict=True)
            )
            y = y * 255 / 219
            cb, cr = cb * 255 / 224, cr * 255 / 224
            kr, kb = {"bt709": (0.2126, 0.0722)}.get(content["source"]["matrix"], (0.299, 0.114))
            red, blue = y + 2 * (1 - kr) * cr, y + 2 * (1 - kb) * cb
            green = (y - kr * red - kb * blue) / (1 - kr - kb)
            expected = np.where(weight[0] >= 0.5, [red, green, blue], 0.0)
            np.testing.assert_array_equal(batch.rgb_valid[0, number, other], weight[0] >= 0.5)
            np.testing.assert_allclose(
                batch.rgb_residual[0, number, :, other], expected, rtol=6e-4, atol=2e-3
            )
    assert batch.rgb_residual.float().abs().mean() > 0.5


def clip_at(dataset, first, *, stride):
    """Read the clip of four frames from ``first`` on: one of as many views as there are starts."""
    num_starts = dataset.sample(0).num_frames - 3 * stride
    spec = spec_of(
        stride=stride, view_rule="ends", transform=TransformSpec(size=SIDE, crop="centre")
    )
    view = View(first, num_starts, 0, 1)
    (batch,) = view_batches(dataset, spec, batch_size=1, views=[view])
    return batch


def test_it_agrees_with_stored_frames_read_where_the_motion_leads(real):
    """Another road altogether: JPEGs, and motion as the loader hands it over, for each pixel."""
    dataset, _ = real
    spec = spec_of(
        stride=3,
        transform=TransformSpec(size=SIDE, crop="centre"),
        motion=MotionSpec(query_stride=2, subclip_frames=4, grid=SIDE),
    )
    batch = only_batch(dataset, spec)
    frames = batch.frames[0].numpy().astype(np.float64)  # (3, T, H, W)
    y, x = np.indices((SIDE, SIDE))
    for number, query in enumerate((0, 2)):
        for other in set(range(4)) - {query}:
            dx, dy = np.floor(batch.motion[0, number, :, other].numpy() + 0.5).astype(int)
            v, u = y + dy, x + dx
            seen = batch.rgb_valid[0, number, other].numpy()
            seen &= (v >= 0) & (v < SIDE) & (u >= 0) & (u < SIDE)
            there = frames[:, other, v.clip(0, SIDE - 1), u.clip(0, SIDE - 1)]
            expected = (frames[:, query] - there)[:, seen]
            found = batch.rgb_residual[0, number, :, other].numpy().astype(np.float64)[:, seen]
            assert seen.mean() > 0.5
            for colour in range(3):
                one, reference = found[colour], expected[colour]
                slope = (one * reference).sum() / (reference * reference).sum()
                # Stored frames are those of the source; the codec has smoothed the rebuilt ones.
                assert 0.75 < slope < 1.05
                assert np.corrcoef(one, reference)[0, 1] > 0.85
