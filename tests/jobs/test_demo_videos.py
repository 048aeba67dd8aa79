import hashlib
from collections import Counter
from dataclasses import replace

import av
import numpy as np
import pytest
from av.sidedata.sidedata import Type as SideDataType
from av.video.frame import PictureType

from gopstream.jobs.demo_scenes import (
    DIRECTIONS,
    MOTION_CLASSES,
    SPLITS,
    VideoKey,
    draw_scene,
    list_entropy,
    make_rng,
    plan_trajectory,
    render_clip,
)
from gopstream.jobs.demo_textures import make_texture, sample_tile
from gopstream.jobs.demo_videos import draw_encoding, encode_h264, write_demo_videos

NUM_FRAMES = 6
SIZE = 64
OPPOSITES = [
    ("move_left", "move_right"),
    ("move_up", "move_down"),
    ("zoom_in", "zoom_out"),
    ("rotate_clockwise", "rotate_counterclockwise"),
]


@pytest.fixture(scope="module")
def scene():
    """A scene with nothing in it but the window."""
    drawn = draw_scene(VideoKey(3, "train", "zoom_in", 0), num_frames=NUM_FRAMES, size=SIZE)
    return replace(drawn, distractors=(), drift=(0.0, 0.0), speed=1.5, pivot=drawn.window_centre)


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    folder = tmp_path_factory.mktemp("demo")
    paths = write_demo_videos(
        folder, split="train", videos_per_class=2, seed=7, num_frames=12, size=SIZE
    )
    return folder, paths


def decode(path):
    with av.open(str(path)) as container:
        container.streams.video[0].thread_type = "NONE"
        return list(container.decode(video=0))


def hash_files(paths):
    return [hashlib.sha256(path.read_bytes()).hexdigest() for path in paths]


def flow_by_block_matching(before, after, centre, *, reach, half=5, search=6):
    """Displacement (x, y) of the block at centre + reach * (each of a 3x3 grid)."""
    flow = {}
    before, after = before.mean(-1), after.mean(-1)
    for right in (-1, 0, 1):
        for down in (-1, 0, 1):
            x, y = round(centre[0] + right * reach), round(centre[1] + down * reach)
            block = before[y - half : y + half + 1, x - half : x + half + 1]
            errors = {}
            for dy in range(-search, search + 1):
                for dx in range(-search, search + 1):
                    top, left = y + dy - half, x + dx - half
                    other = after[top : top + 2 * half + 1, left : left + 2 * half + 1]
                    if top >= 0 and left >= 0 and other.shape == block.shape:
                        errors[dx, dy] = np.abs(other - block).sum()
            flow[right, down] = min(errors, key=errors.get)
    return flow


def test_files_are_balanced_and_named_by_split_and_class(written):
    folder, paths = written
    assert [p.relative_to(folder).as_posix() for p in paths] == [
        f"train/{name}/{index:04d}.mp4" for name in MOTION_CLASSES for index in range(2)
    ]
    assert sorted(p for p in folder.rglob("*") if p.is_file()) == sorted(paths)


def test_videos_decode_to_the_size_asked_for_and_say_their_colours(written):
    for path in written[1]:
        frames = decode(path)
        assert len(frames) == 12
        assert {(f.height, f.width, f.format.name) for f in frames} == {(SIZE, SIZE, "yuv420p")}
        assert {(int(f.colorspace), int(f.color_range)) for f in frames} == {(1, 1)}


def test_same_seed_gives_the_same_bytes_in_worker_processes(written, tmp_path):
    paths = write_demo_videos(
        tmp_path, split="train", videos_per_class=2, seed=7, num_frames=12, size=SIZE, workers=2
    )
    assert hash_files(paths) == hash_files(written[1])


def test_a_video_does_not_depend_on_how_many_there_are(written, tmp_path):
    paths = write_demo_videos(
        tmp_path, split="train", videos_per_class=1, seed=7, num_frames=12, size=SIZE
    )
    assert hash_files(paths) == hash_files(written[1][::2])


def test_no_two_videos_are_alike(written):
    assert len(set(hash_files(written[1]))) == len(written[1])


def test_even_videos_have_b_frames_and_several_references_and_odd_ones_neither(written):
    for path in written[1]:
        kinds = {frame.pict_type for frame in decode(path)}
        assert PictureType.I in kinds and PictureType.P in kinds
        assert (PictureType.B in kinds) == (int(path.stem) % 2 == 0)


def test_seeds_of_splits_classes_videos_and_purposes_never_coincide():
    seeds = [
        list_entropy(VideoKey(1, split, name, index), purpose)
        for split in SPLITS
        for name in MOTION_CLASSES
        for index in range(70)
        for purpose in ("foreground", "background", "scene", "encoding")
    ]
    assert len(set(seeds)) == len(seeds)
    assert {len(seed) for seed in seeds} == {5}  # SeedSequence pads short seeds with zeros


def test_training_and_validation_share_no_texture():
    def hashes(split):
        keys = [VideoKey(1, split, "move_up", index) for index in range(4)]
        rngs = [make_rng(key, purpose) for key in keys for purpose in ("foreground", "background")]
        return {make_texture(rng, side=64).detail.tobytes() for rng in rngs}

    assert len(hashes("train")) == len(hashes("val")) == 8
    assert not hashes("train") & hashes("val")


@pytest.mark.parametrize("split", SPLITS)
def test_encoding_is_the_same_for_all_classes(split):
    for index in range(20):
        assert len({draw_encoding(VideoKey(1, split, name, index)) for name in MOTION_CLASSES}) == 1


def test_encodings_are_varied_and_half_have_b_frames():
    drawn = [draw_encoding(VideoKey(1, "train", "zoom_in", index)) for index in range(200)]
    assert Counter(s.num_b_frames > 0 for s in drawn) == {True: 100, False: 100}
    assert {s.crf for s in drawn} == set(range(18, 27))
    assert len({s.gop for s in drawn}) == 4


@pytest.mark.parametrize(("name", "opposite"), OPPOSITES)
def test_trajectory_read_backwards_is_that_of_the_opposite_class(scene, name, opposite):
    forwards, backwards = plan_trajectory(name, scene), plan_trajectory(opposite, scene)
    for state, mirrored in zip(forwards, backwards, strict=True):
        np.testing.assert_array_equal(state[::-1], mirrored)


@pytest.mark.parametrize(("name", "opposite"), OPPOSITES)
def test_frames_read_backwards_are_those_of_the_opposite_class(scene, name, opposite):
    still = replace(scene, exposure=np.ones(NUM_FRAMES, np.float32))
    np.testing.assert_array_equal(render_clip(name, still)[::-1], render_clip(opposite, still))


def test_each_class_moves_one_coordinate(scene):
    assert len(set(DIRECTIONS.values())) == len(MOTION_CLASSES)
    for name in MOTION_CLASSES:
        path = plan_trajectory(name, scene)
        columns = [path.shift[:, 0], path.shift[:, 1], path.angle, path.octave]
        assert sum(np.ptp(column) > 0 for column in columns) == 1


@pytest.mark.parametrize("name", MOTION_CLASSES)
def test_picture_moves_as_its_class_says(scene, name):
    still = replace(scene, exposure=np.ones(NUM_FRAMES, np.float32), speed=2.5)
    frames = render_clip(name, still).astype(np.float32)
    reach = still.window_radius * 0.45
    flow = flow_by_block_matching(frames[2], frames[3], still.window_centre, reach=reach)
    motion = np.array([flow[place] for place in flow], np.float64)  # (9, 2)
    place = np.array(list(flow), np.float64)
    found = {
        "move_right": motion[:, 0].mean(),
        "move_down": motion[:, 1].mean(),
        "zoom_in": (motion * place).sum() / 12,
        "rotate_clockwise": (motion[:, 1] * place[:, 0] - motion[:, 0] * place[:, 1]).sum() / 12,
    }
    for one, other in OPPOSITES:
        if one not in found:
            found[one] = -found[other]
        else:
            found[other] = -found[one]
    assert max(found, key=found.get) == name
    assert found[name] > 0.5


def test_only_the_window_differs_between_classes(scene):
    clips = [render_clip(name, scene).astype(int) for name in MOTION_CLASSES]
    y, x = np.indices((SIZE, SIZE))
    distance = np.maximum(abs(x - scene.window_centre[0]), abs(y - scene.window_centre[1]))
    outside = distance > scene.window_radius + 1
    for clip in clips[1:]:
        assert (clip[:, outside] == clips[0][:, outside]).all()
        assert (clip[:, ~outside] != clips[0][:, ~outside]).any()


@pytest.mark.parametrize("moment", [0, NUM_FRAMES - 1])
@pytest.mark.parametrize("name", MOTION_CLASSES)
def test_angle_and_zoom_are_uniform_at_every_moment(scene, name, moment):
    """The class shifts circles that are uniform, so no state is likelier in one class."""
    phases = np.arange(64) / 64
    angles, octaves = [], []
    for phase in phases:
        path = plan_trajectory(
            name, replace(scene, start_angle=2 * np.pi * phase, start_octave=float(phase))
        )
        angles.append(path.angle[moment] / (2 * np.pi) % 1)
        octaves.append(path.octave[moment] % 1)
    for values in (angles, octaves):
        spacing = np.diff(np.sort(values))
        np.testing.assert_allclose(spacing, 1 / 64, atol=1e-5)


def test_single_frame_brightness_and_contrast_do_not_depend_on_the_class():
    means, deviations = [], []
    for name in ("zoom_in", "zoom_out", "move_left"):
        keys = [VideoKey(2, "train", name, index) for index in range(12)]
        first = [render_clip(name, draw_scene(k, num_frames=2, size=64))[0] for k in keys]
        means.append(np.mean(first))
        deviations.append(np.mean([frame.std() for frame in first]))
    # 12 videos differ by 30 levels in mean: three standard errors of a difference are 37.
    assert np.ptp(means) < 37
    assert np.ptp(deviations) < 15


def test_tile_repeats_and_its_texels_are_hit_exactly():
    tile = np.random.default_rng(0).uniform(size=(64, 64, 3)).astype(np.float32)
    x = np.array([0, 63, 64, -1, 5.5], np.float32)
    y = np.array([0, 1, 130, -64, 63.5], np.float32)
    sampled = sample_tile(tile, x=x, y=y)
    for row, texel in zip(
        sampled, [tile[0, 0], tile[1, 63], tile[2, 0], tile[0, 63]], strict=False
    ):
        np.testing.assert_array_equal(row, texel)
    corners = (tile[63, 5], tile[63, 6], tile[0, 5], tile[0, 6])
    np.testing.assert_allclose(sampled[4], np.mean(corners, axis=0), rtol=1e-6)


def test_texture_has_no_seam():
    picture = make_texture(np.random.default_rng(0), side=64).detail
    for axis in (0, 1):
        steps = np.abs(picture - np.roll(picture, 1, axis)).mean(axis=(1 - axis, 2))
        assert steps[0] < 3 * np.median(steps)  # between the last texel and the first


def test_decoded_frames_look_like_the_rendered_ones(scene, tmp_path):
    frames = render_clip("move_left", scene)
    key = VideoKey(3, "train", "move_left", 0)
    encode_h264(tmp_path / "clip.mp4", frames, settings=replace(draw_encoding(key), crf=10))
    decoded = np.stack([f.to_ndarray(format="rgb24") for f in decode(tmp_path / "clip.mp4")])
    assert np.abs(decoded.mean(axis=(0, 1, 2)) - frames.mean(axis=(0, 1, 2))).max() < 2
    assert np.abs(decoded.astype(int) - frames).mean() < 6


def test_encoder_sees_the_motion(scene, tmp_path):
    """Vectors point to the past, where the content came from: left, for content moving right."""
    found = {}
    for name in ("move_left", "move_right"):
        path = tmp_path / f"{name}.mp4"
        settings = draw_encoding(VideoKey(3, "train", name, 1))
        encode_h264(path, render_clip(name, scene), settings=settings)
        with av.open(str(path)) as container:
            stream = container.streams.video[0]
            stream.thread_type = "NONE"
            stream.codec_context.options = {"flags2": "+export_mvs"}
            sides = [f.side_data.get(SideDataType.MOTION_VECTORS) for f in container.decode(stream)]
        found[name] = np.mean([side.to_ndarray()["motion_x"].mean() for side in sides if side])
    assert found["move_right"] < -0.5 < 0.5 < found["move_left"]


@pytest.mark.parametrize(
    ("change", "match"),
    [
        ({"videos_per_class": 0}, "at least 1, got 0 and 1"),
        ({"workers": 0}, "at least 1, got 1 and 0"),
        ({"num_frames": 1}, "num_frames must be at least 2, got 1"),
        ({"size": 62}, "size must be even and at least 64, got 62"),
        ({"size": 97}, "size must be even and at least 64, got 97"),
        ({"seed": -1}, r"seed must be between 0 and 2\*\*32 - 1, got -1"),
    ],
)
def test_numbers_out_of_range_are_refused(tmp_path, change, match):
    wanted = {"split": "val", "videos_per_class": 1, "seed": 0} | change
    with pytest.raises(ValueError, match=match):
        write_demo_videos(tmp_path / "out", **wanted)
