"""Protects what counts as a cut, and what only looks like one."""

import av
import numpy as np
import pytest

from gopstream.pipeline.decode import open_coded
from gopstream.pipeline.motion_statistics import MotionMeter
from gopstream.pipeline.shots import ShotDetector, compare_thumbnails, thumbnail

HEIGHT, WIDTH = 144, 192


def scene(seed):
    """A large picture with structure at several sizes, (3 x HEIGHT, 6 x WIDTH, 3) uint8."""
    rng = np.random.default_rng(seed)
    height, width = 3 * HEIGHT, 6 * WIDTH
    picture = np.full((height, width, 3), rng.integers(70, 190, 3), np.float64)
    for side, strength in ((64, 80), (24, 50), (8, 20)):
        cells = rng.integers(-strength, strength, (height // side + 1, width // side + 1, 3))
        picture += np.kron(cells, np.ones((side, side, 1)))[:height, :width]
    return np.clip(picture, 0, 255).astype(np.uint8)


FIRST, SECOND = scene(1), scene(2)


def pan(picture, count, *, speed=1, start=0):
    return [
        picture[100 : 100 + HEIGHT, start + speed * i : start + speed * i + WIDTH]
        for i in range(count)
    ]


def light(picture, gain, offset=0):
    return np.clip(picture * float(gain) + offset, 0, 255).astype(np.uint8)


ENCODERS = {
    "b-frames": {"x264-params": "min-keyint=1:scenecut=60"},
    "b-frames, cuts not looked for": {"sc_threshold": "0"},
    "canonical": {"bf": "0", "sc_threshold": "0", "g": "12", "refs": "1", "preset": "veryfast"},
}


def cuts_of(path, pictures, *, keys=(), options=None, with_luma=True):
    """Encode, decode and return (cuts, kinds of the frames, intra shares)."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=25, options=options or {})
        stream.height, stream.width, stream.pix_fmt = HEIGHT, WIDTH, "yuv420p"
        stream.codec_context.thread_count = 1
        for index, picture in enumerate(pictures):
            frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(picture), "rgb24")
            frame.pict_type = 1 if index in keys else 0
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    meter, detector, cuts, kinds, shares = MotionMeter(), ShotDetector(), [], [], []
    with open_coded(path) as coded:
        for index, frame in enumerate(coded.frames):
            luma = frame.planes.y
            share = meter.add(frame.kind, frame.vectors, size=luma.shape)
            shown = luma if with_luma else None
            if detector.is_cut(kind=frame.kind, intra_share=share, luma=shown):
                cuts.append(index)
            kinds.append(frame.kind)
            shares.append(share)
    return cuts, kinds, shares


HARD_CUT = pan(FIRST, 16) + pan(SECOND, 16, speed=2)


@pytest.mark.parametrize("encoder", ENCODERS)
def test_hard_cut_is_found_at_its_frame(tmp_path, encoder):
    cuts, kinds, _ = cuts_of(tmp_path / "cut.mp4", HARD_CUT, options=ENCODERS[encoder])
    assert cuts == [16]
    if encoder == "b-frames":
        assert kinds[16] == "I"  # the encoder saw it too
    else:
        assert kinds[16] != "I"


@pytest.mark.parametrize("encoder", ENCODERS)
def test_hard_cut_at_a_forced_key_frame_is_found(tmp_path, encoder):
    path = tmp_path / "cut.mp4"
    cuts, kinds, _ = cuts_of(path, HARD_CUT, keys=(16,), options=ENCODERS[encoder])
    assert kinds[16] == "I"
    assert cuts == [16]


def test_key_frame_within_a_shot_is_no_cut(tmp_path):
    cuts, kinds, _ = cuts_of(tmp_path / "key.mp4", pan(FIRST, 30), keys=(9, 17))
    assert (kinds[9], kinds[17]) == ("I", "I")
    assert cuts == []


def test_cut_between_narrow_pictures_with_bars_is_found(tmp_path):
    pictures = [picture.copy() for picture in HARD_CUT]
    for picture in pictures:
        picture[:, :60] = picture[:, -60:] = 0
    assert cuts_of(tmp_path / "bars.mp4", pictures, keys=(16,))[0] == [16]


def flash(gain, offset):
    pictures = pan(FIRST, 30)
    pictures[16] = light(pictures[16], gain, offset)
    return pictures


FADE = [light(picture, 1 - i / 15) for i, picture in enumerate(pan(FIRST, 16))] + [
    light(picture, min(1, i / 15)) for i, picture in enumerate(pan(SECOND, 20))
]
DISSOLVE = (
    pan(FIRST, 10)
    + [
        light(a, 1 - i / 12) + light(b, i / 12)
        for i, (a, b) in enumerate(zip(pan(FIRST, 12, start=10), pan(SECOND, 12), strict=True))
    ]
    + pan(SECOND, 10, start=12)
)
RANDOM = np.random.default_rng(0)
NO_CUT = {
    "static": [FIRST[:HEIGHT, :WIDTH]] * 24,
    "white flash": flash(0, 255),
    "bright flash": flash(1, 110),
    "strong flash": flash(2, 0),
    "fade through black": FADE,
    "dissolve": DISSOLVE,
    "fast pan": pan(FIRST, 14) + pan(FIRST, 14, speed=20, start=14) + pan(FIRST, 8, start=300),
    "noise": [RANDOM.integers(0, 255, (HEIGHT, WIDTH, 3)).astype(np.uint8) for _ in range(16)],
}


@pytest.mark.parametrize("encoder", ["b-frames", "canonical"])
@pytest.mark.parametrize("name", NO_CUT)
def test_what_only_looks_like_a_cut_is_none(tmp_path, name, encoder):
    assert cuts_of(tmp_path / "clip.mp4", NO_CUT[name], options=ENCODERS[encoder])[0] == []


def test_shot_after_black_begins_where_the_picture_does(tmp_path):
    black = [np.zeros((HEIGHT, WIDTH, 3), np.uint8)] * 5
    pictures = pan(FIRST, 12) + black + pan(SECOND, 12)
    assert cuts_of(tmp_path / "black.mp4", pictures)[0] == [17]
    same_again = pan(FIRST, 12) + black + pan(FIRST, 12, start=13)
    assert cuts_of(tmp_path / "blink.mp4", same_again)[0] == []


def test_without_luma_intra_share_decides(tmp_path):
    options = ENCODERS["canonical"] | {"g": "250"}
    path = tmp_path / "cut.mp4"
    cuts, kinds, shares = cuts_of(path, HARD_CUT, options=options, with_luma=False)
    assert kinds[16] == "P"
    assert shares[16] > 0.6 > shares[17]
    assert cuts == [16]


def test_first_frame_and_key_frames_are_no_cut_without_luma():
    detector = ShotDetector()
    frames = [("P", 1.0), ("I", 1.0), ("B", 0.5), ("P", 0.7), ("P", None)]
    found = [detector.is_cut(kind=kind, intra_share=share) for kind, share in frames]
    assert found == [False, False, False, True, False]


def test_p_frame_that_is_predicted_well_is_no_cut():
    first, second = (thumb.repeat(8, 0).repeat(8, 1) for thumb in (luma(1), luma(2)))
    for share, expected in ((0.1, False), (0.5, True)):
        detector = ShotDetector()
        for _ in range(6):
            assert not detector.is_cut(kind="P", intra_share=0.0, luma=first)
        assert detector.is_cut(kind="P", intra_share=share, luma=second) == expected


def test_new_shot_has_a_level_of_its_own():
    detector = ShotDetector()
    calm, wild = [luma(0)] * 8, [luma(seed) for seed in range(1, 9)]
    pictures = [thumb.repeat(8, 0).repeat(8, 1) for thumb in calm + wild]
    found = [detector.is_cut(kind="I", luma=picture) for picture in pictures]
    assert [index for index, is_cut in enumerate(found) if is_cut] == [8]


def test_change_of_size_is_no_cut():
    detector = ShotDetector()
    for size in ((64, 64), (64, 64), (32, 64), (4, 4), (4, 4)):
        picture = np.full(size, 255, np.uint8)
        assert not detector.is_cut(kind="I", luma=picture)


def luma(seed):
    return np.random.default_rng(seed).integers(0, 255, (12, 16)).astype(np.uint8)


def test_thumbnail_averages_four_samples_of_each_cell():
    picture = np.random.default_rng(3).integers(0, 255, (45, 77)).astype(np.uint8)
    view = picture[:, :70]  # with strides, and sides that are no multiples of 8
    corners = [view[y:40:8, x:64:8].astype(int) for y in (2, 6) for x in (2, 6)]
    np.testing.assert_array_equal(thumbnail(view), sum(corners) // 4)


@pytest.mark.parametrize("seed", range(5))
def test_comparison_equals_numpy(seed):
    earlier = luma(seed)
    later = np.where(luma(seed + 50) < 120, earlier, luma(seed + 100)).astype(np.uint8)
    seen = compare_thumbnails(later, earlier)
    gap = np.abs(later.astype(int) - earlier)
    assert seen.change == pytest.approx(gap.mean())
    assert seen.contrast == pytest.approx(later.std())
    expected = np.corrcoef(later[gap > 3], earlier[gap > 3])[0, 1]
    assert seen.correlation == pytest.approx(expected)


def test_thumbnails_of_two_sizes_are_refused():
    with pytest.raises(ValueError, match="of one size"):
        compare_thumbnails(luma(0), luma(0)[:4])


REAL_CUTS = {
    "action_340x256_h264.mp4": [],
    "goat_256.mp4": [],
    "nasa_320x180_h264_high_bframes.mp4": [240],
    "k400_arm_wrestling_340x256_h264.mp4": [268],  # the end of a defect that was filmed along
}


@pytest.mark.parametrize("name", REAL_CUTS)
def test_real_videos_have_the_cuts_that_eyes_see(real_videos, name):
    detector, meter, found = ShotDetector(), MotionMeter(), []
    with open_coded(real_videos[name]) as stream:
        for index, frame in enumerate(stream.frames):
            picture = frame.planes.y
            share = meter.add(frame.kind, frame.vectors, size=picture.shape)
            if detector.is_cut(kind=frame.kind, intra_share=share, luma=picture):
                found.append(index)
    assert found == REAL_CUTS[name]
