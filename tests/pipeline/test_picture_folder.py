"""A folder of JPEG pictures is a video: each picture a frame, none lost without a word."""

import io
from fractions import Fraction

import numpy as np
import pytest
from PIL import Image

from gopstream.pipeline.errors import BitstreamError, NotAVideoError
from gopstream.pipeline.extract import extract_segments
from gopstream.pipeline.options import ExtractionOptions
from gopstream.pipeline.picture_folder import MAX_PICTURE_BYTES, list_pictures
from gopstream.pipeline.probe import open_video
from gopstream.pipeline.window import TimeWindow

NUM_PICTURES = 15


def draw(number, size=(96, 64)):
    """Bright, saturated colours that move: a wrong range or matrix shows."""
    x, y = np.meshgrid(np.arange(size[0]), np.arange(size[1]))
    red = 40 + 200 * (x + 3 * number) // size[0] % 216
    picture = np.stack([red, 230 - 2 * y, np.full_like(x, 20 + 8 * number)], axis=-1)
    return Image.fromarray(picture.clip(0, 255).astype(np.uint8))


def fill(folder, numbers=range(1, NUM_PICTURES + 1), *, pattern="{:05d}.jpg"):
    folder.mkdir(parents=True, exist_ok=True)
    for number in numbers:
        draw(number).save(folder / pattern.format(number), quality=95, subsampling=0)
    return folder


@pytest.fixture
def folder(tmp_path):
    return fill(tmp_path / "100%05d [a]*\u00e9")


def extract(folder, *, rate=12.0, window=None, **options):
    clips = extract_segments(
        folder,
        facts=open_video(folder, picture_rate=rate),
        window=window,
        options=ExtractionOptions(**options),
    )
    return list(clips)


def seconds(clip):
    return [pts * clip.time_base for pts in clip.pts.tolist()]


def colours_of(jpeg):
    return np.asarray(Image.open(io.BytesIO(jpeg)).convert("RGB")).astype(np.int16)


def test_each_picture_is_a_frame_at_the_rate(folder):
    (clip,) = extract(folder)
    assert clip.num_frames == len(clip.jpegs) == NUM_PICTURES
    assert seconds(clip) == [Fraction(index, 12) for index in range(NUM_PICTURES)]
    assert clip.kinds == "I" + 11 * "P" + "IPP"
    assert clip.exactness == "exact"
    assert clip.residual is not None
    assert clip.warnings == ()
    assert clip.frame_size == (96, 64)


def test_colours_are_those_that_a_jpeg_reader_sees(folder):
    (clip,) = extract(folder, quality=98)
    for jpeg, path in zip(clip.jpegs, sorted(folder.iterdir()), strict=True):
        difference = np.abs(colours_of(jpeg) - colours_of(path.read_bytes()))
        # Chroma at half resolution costs some; limited range taken for full would cost 10 and more.
        assert difference.mean() < 2.5
        assert np.abs((colours_of(jpeg) - colours_of(path.read_bytes())).mean((0, 1))).max() < 1.0


def test_a_rate_with_decimals_is_that_decimal_number(folder):
    (clip,) = extract(folder, rate=29.97)
    assert seconds(clip) == [Fraction(100 * index, 2997) for index in range(NUM_PICTURES)]


def test_facts_are_those_of_the_pictures(folder):
    facts = open_video(folder, picture_rate=12.0)
    assert (facts.width, facts.height, facts.codec) == (96, 64, "mjpeg")
    assert facts.full_range
    assert facts.matrix == "bt470bg"
    assert facts.average_rate == 12
    assert facts.num_frames_by_header == NUM_PICTURES
    assert facts.duration_seconds == 1.25


def test_numbers_may_begin_anywhere_and_be_of_any_width(tmp_path):
    clips = [
        extract(fill(tmp_path / "a", range(8, 12), pattern="{}.jpg")),
        extract(fill(tmp_path / "b", range(8, 12), pattern="img_{:06d}.JPEG")),
        extract(fill(tmp_path / "c", range(8, 12))),
    ]
    assert [clip.jpegs for (clip,) in clips] == [clips[0][0].jpegs] * 3
    assert [clip.num_frames for (clip,) in clips] == [4] * 3
    # 8, 9, 10, 11: by number, not by name.
    blues = [colours_of(jpeg)[..., 2].mean() for jpeg in clips[0][0].jpegs]
    assert blues == sorted(blues)


def test_a_gap_in_the_numbers_stays_a_gap_in_time(folder):
    (folder / "00004.jpg").unlink()
    (folder / "00005.jpg").unlink()
    (clip,) = extract(folder)
    assert clip.num_frames == NUM_PICTURES - 2
    assert seconds(clip)[2:4] == [Fraction(2, 12), Fraction(5, 12)]
    assert clip.warnings == ("numbers without a picture, left as gaps in time: 2, the first is 4",)
    assert clip.damaged_frames == ()


def test_a_cut_picture_is_a_damaged_frame(folder):
    path = folder / "00006.jpg"
    path.write_bytes(path.read_bytes()[:-400])
    (clip,) = extract(folder)
    assert clip.num_frames == NUM_PICTURES
    assert clip.damaged_frames == (5,)
    assert clip.warnings == (
        "broken pictures: 00006.jpg",
        f"1 of {NUM_PICTURES} frames may show damage",
    )


def test_a_picture_that_yields_nothing_is_an_error_that_names_it(folder):
    path = folder / "00006.jpg"
    path.write_bytes(path.read_bytes()[:200])
    with pytest.raises(BitstreamError, match=r"15 pictures .* 14 frames: 00006\.jpg does not"):
        extract(folder)


def test_a_first_picture_that_yields_nothing_is_an_error_too(folder):
    path = folder / "00001.jpg"
    path.write_bytes(path.read_bytes()[:200])
    with pytest.raises(BitstreamError, match=r"00001\.jpg does not decode"):
        extract(folder)


def test_a_picture_of_another_size_is_scaled_to_the_first(folder):
    draw(6, size=(48, 80)).save(folder / "00006.jpg")
    (clip,) = extract(folder)
    assert clip.num_frames == NUM_PICTURES
    assert {colours_of(jpeg).shape for jpeg in clip.jpegs} == {(64, 96, 3)}
    assert clip.warnings == ("picture size or format change mid-stream; all is scaled to one size",)


def test_a_grey_picture_among_coloured_ones_is_a_frame(folder):
    draw(6).convert("L").save(folder / "00006.jpg")
    (clip,) = extract(folder)
    assert clip.num_frames == NUM_PICTURES
    grey = colours_of(clip.jpegs[5])
    assert np.abs(grey - grey.mean(axis=-1, keepdims=True)).max() <= 2


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", r"00006\.jpg is empty"),
        (b"#EXTM3U\nfile:///etc/passwd\n", r"00006\.jpg is no JPEG"),
        (b"\x89PNG\r\n\x1a\n", r"00006\.jpg is no JPEG"),
    ],
    ids=["empty", "playlist", "png"],
)
def test_a_file_that_is_no_jpeg_is_an_error_that_names_it(folder, content, reason):
    (folder / "00006.jpg").write_bytes(content)
    with pytest.raises(NotAVideoError, match=reason):
        extract(folder)


def test_a_picture_too_large_for_memory_is_refused(folder):
    with (folder / "00006.jpg").open("r+b") as file:
        file.truncate(MAX_PICTURE_BYTES + 1)
    with pytest.raises(NotAVideoError, match=r"00006\.jpg has more than 64 MiB"):
        extract(folder)


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("cover.jpg", r"cover\.jpg has no number"),
        ("1.jpg", r"00001\.jpg and 1\.jpg have the same number"),
        ("img_00016.jpg", "begin with '' and 'img_'"),
    ],
)
def test_names_that_leave_the_order_open_are_errors(folder, name, reason):
    draw(1).save(folder / name)
    with pytest.raises(NotAVideoError, match=reason):
        list_pictures(folder)


def test_other_files_are_passed_over_aloud_and_hidden_ones_silently(folder):
    for name in ("Thumbs.db", "labels.txt", ".DS_Store", "00003.png", "z"):
        (folder / name).write_bytes(b"x")
    (folder / "00099.jpg").mkdir()
    (clip,) = extract(folder)
    assert clip.num_frames == NUM_PICTURES
    assert clip.warnings == (
        "no pictures, passed over: 00003.png, 00099.jpg, Thumbs.db and 2 more",
    )


def test_a_folder_without_pictures_or_a_rate_is_an_error(tmp_path):
    with pytest.raises(NotAVideoError, match="no numbered JPEG pictures"):
        open_video(tmp_path, picture_rate=12.0)
    with pytest.raises(FileNotFoundError, match="needs a picture rate"):
        open_video(tmp_path)
    with pytest.raises(FileNotFoundError, match="no such folder"):
        open_video(tmp_path / "none", picture_rate=12.0)
    for rate in (0, -1, 1001, float("nan")):
        with pytest.raises(ValueError, match="a picture rate must be above 0"):
            open_video(tmp_path, picture_rate=rate)


def test_native_mode_says_why_it_refuses(folder):
    with pytest.raises(BitstreamError, match="has no motion vectors; canonical mode"):
        extract(folder, mode="native")


def test_a_window_of_pictures_keeps_their_times(folder):
    (whole,) = extract(folder)
    (clip,) = extract(folder, window=TimeWindow(0.5, 1.0))
    assert seconds(clip) == [Fraction(index, 12) for index in range(6, 12)]
    assert clip.jpegs == whole.jpegs[6:12]
    with pytest.raises(
        BitstreamError, match=r"no frame from 1\.25 s to 2 s; the video lasts 1\.25"
    ):
        extract(folder, window=TimeWindow(1.25, 2))


def test_damage_is_found_at_its_place_in_a_window(folder):
    path = folder / "00009.jpg"
    path.write_bytes(path.read_bytes()[:-400])
    (clip,) = extract(folder, window=TimeWindow(0.5, 1.0))
    assert clip.damaged_frames == (2,)
    (clip,) = extract(folder, window=TimeWindow(0.0, 0.5))
    assert clip.damaged_frames == ()


def test_pictures_are_stored_at_a_lower_rate(folder):
    (whole,) = extract(folder)
    (clip,) = extract(folder, fps=4)
    assert clip.frame_index_of_jpeg.tolist() == [0, 3, 6, 9, 12]
    assert clip.jpegs == whole.jpegs[::3]
    assert clip.num_frames == NUM_PICTURES
