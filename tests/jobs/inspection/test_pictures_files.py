import av
import numpy as np
import pytest
from PIL import Image

from gopstream.jobs.errors import UserError
from gopstream.jobs.inspection.open_target import open_clip
from gopstream.jobs.inspection.pictures.canvas import canvas_of
from gopstream.jobs.inspection.pictures.files import (
    draw_frames,
    fitted,
    sheet_frames,
    tile,
    write_pngs,
    write_sheet,
)
from gopstream.jobs.inspection.pictures.layers import LAYERS, available_layers
from gopstream.jobs.inspection.pictures.movement import Style, list_movement, movement
from gopstream.jobs.inspection.pictures.movie import LONGEST_GIF, frame_seconds, write_movie
from gopstream.jobs.inspection.pictures.surroundings import Needs, walk
from gopstream.jobs.inspection.pictures.warped import predict
from inspection_cases import VELOCITY, make_extract_folder, make_video
from picture_cases import GivenClip, make_frame, make_motion

STYLE = Style(longest=4)


@pytest.fixture(scope="module")
def videos(tmp_path_factory):
    folder = tmp_path_factory.mktemp("pictures")
    b_frames = make_video(folder, b_frames=True)
    return {
        "b_frames": open_clip(str(b_frames)),
        "p_only": open_clip(str(make_video(folder))),
        "canonical": open_clip(str(make_extract_folder(b_frames, folder / "extracted"))),
    }


def given(num_frames=5, **changes):
    frames = []
    for index in range(num_frames):
        picture = np.full((48, 64, 3), 20 * index % 250, np.uint8)
        frames.append(make_frame(index, motion=make_motion((-index % 5, 0)), picture=picture))
    return GivenClip(frames, **changes)


def test_the_content_moves_as_the_arrows_say(videos):
    for name, kind in (("p_only", "P"), ("canonical", "P"), ("b_frames", "B")):
        moved = np.concatenate(
            [
                list_movement(frame.motion, number)[frame.motion.coverage[number] > 0]
                for frame in videos[name].frames()
                if frame.kind == kind
                for number in range(len(frame.motion.coverage))
            ]
        )
        moving = moved[np.abs(moved).any(axis=1)]
        assert len(moving) > 100
        if name == "b_frames":  # vectors span one or two frames
            assert (moving @ VELOCITY > 0).mean() > 0.9
        else:
            assert np.abs(np.median(moving, axis=0) - VELOCITY).max() <= 0.25


@pytest.mark.parametrize("name", ["p_only", "b_frames", "canonical"])
def test_frames_predicted_by_the_vectors_are_near_those_there_are(videos, name):
    clip = videos[name]
    canvas, errors = canvas_of(clip.facts), []
    for frame, around in walk(clip, first=1, last=5, needs=Needs(references=True)):
        past, future = (None if o is None else o.picture for o in (around.past, around.future))
        made = predict(frame.motion, (past, future), canvas=canvas)
        if not made.known.any():
            continue
        error = np.abs(made.picture - frame.picture)[made.known].mean()
        still = np.abs(past.astype(float) - frame.picture)[made.known].mean()
        errors.append(error / still)
    assert np.median(errors) < 0.55  # a square of the clip blinks, whatever moves


@pytest.mark.parametrize("name", ["p_only", "b_frames", "canonical"])
def test_every_layer_of_a_clip_is_drawn(videos, name, tmp_path):
    clip = videos[name]
    layers = available_layers(clip.facts)
    missing = {"p_only": {"residual"}, "b_frames": {"residual", "accumulated"}, "canonical": set()}
    assert {layer.split("_")[0] for layer in set(LAYERS) - set(layers)} == missing[name]
    paths = write_pngs(clip, tmp_path / "new" / "folder", layers=layers, first=3, last=4)
    assert [path.name for path in paths] == [
        f"{index:06d}_{layer}.png" for index in (3, 4) for layer in layers
    ]
    for path in paths:
        with Image.open(path) as picture:
            assert picture.format == "PNG"
            assert np.asarray(picture.convert("RGB")).std() > 5


def test_scales_hold_for_all_frames_of_a_look():
    clip = given(5)
    pages = [frame.pages["colours"] for frame in draw_frames(clip, layers=["colours"], first=1)]
    legend = slice(-60, None)
    for page in pages[1:]:
        np.testing.assert_array_equal(page[legend], pages[0][legend])


@pytest.mark.parametrize(("first", "last"), [(-1, 2), (3, 2), (0, 5), (5, None)])
def test_frames_that_are_not_there_are_refused(tmp_path, first, last):
    with pytest.raises(UserError, match="given has the frames 0 to 4; expected a first and a last"):
        write_pngs(given(), tmp_path, first=first, last=last)


def test_an_mp4_shows_each_frame_at_its_time(tmp_path):
    times = np.array([1.0, 1.04, 1.2, 1.24, 1.28])
    path = write_movie(
        given(times=times), tmp_path / "deep" / "movie.mp4", layers=["frame"], style=STYLE
    )
    with av.open(str(path)) as container:
        frames = list(container.decode(video=0))
    assert [round(frame.time, 3) for frame in frames] == [0, 0.04, 0.2, 0.24, 0.28]
    levels = [frame.to_ndarray(format="rgb24")[100:400, 100:500].mean() for frame in frames]
    np.testing.assert_allclose(levels, [0, 20, 40, 60, 80], atol=3)
    assert [entry.name for entry in path.parent.iterdir()] == ["movie.mp4"]


def test_layers_of_a_movie_lie_in_a_square(tmp_path):
    sizes = []
    for layers in (["frame", "arrows", "colours", "coverage"], ["frame", "arrows", "colours"]):
        path = write_movie(given(2), tmp_path / "m.mp4", layers=layers, style=STYLE)
        with av.open(str(path)) as container:
            sizes.append((container.streams.video[0].width, container.streams.video[0].height))
    (square, three) = sizes
    assert square[0] == 2 * 640 + 8
    assert 2 * 480 < square[1] < 2 * 480 + 250
    assert three[0] == 1920  # in a row, without an empty quarter
    assert three[1] < 640


def test_a_gif_plays_on_and_on(tmp_path):
    times = np.array([0.0, 0.1, 0.2, 0.5, 0.6])
    path = write_movie(given(times=times), tmp_path / "m.GIF", layers=["frame"], style=STYLE)
    with Image.open(path) as movie:
        assert (movie.n_frames, movie.info["loop"]) == (5, 0)
        durations = []
        for index in range(5):
            movie.seek(index)
            durations.append(movie.info["duration"])
            level = np.asarray(movie.convert("RGB"))[100:400, 100:500].mean()
            assert abs(level - 20 * index) < 3
    assert durations == [100, 100, 300, 100, 100]


def test_a_movie_that_cannot_be_written_is_refused(tmp_path):
    with pytest.raises(UserError, match=r"ends in \.mp4 or \.gif, got movie\.avi"):
        write_movie(given(), tmp_path / "movie.avi")
    long = GivenClip([make_frame(i, picture=None, motion=None) for i in range(LONGEST_GIF + 1)])
    with pytest.raises(UserError, match=f"at most {LONGEST_GIF} frames, got {LONGEST_GIF + 1}"):
        write_movie(long, tmp_path / "movie.gif")
    assert list(tmp_path.iterdir()) == []


def test_a_movie_that_fails_leaves_no_file(tmp_path):
    clip = given(3)
    clip.frames = lambda start=0, stop=None: iter([make_frame(0)])
    with pytest.raises(RuntimeError):
        write_movie(clip, tmp_path / "movie.mp4", layers=["frame"], style=STYLE)
    assert list(tmp_path.iterdir()) == []


def test_frames_without_times_are_shown_25_to_the_second():
    facts = given(times=np.arange(5.0), has_times=False).facts
    np.testing.assert_allclose(frame_seconds(facts, first=1, last=3), [0, 0.04, 0.08, 0.12])
    facts = given(times=np.arange(5.0)).facts  # a slow camera
    np.testing.assert_allclose(frame_seconds(facts, first=1, last=3), [0, 1, 2, 3])


def test_a_sheet_shows_frames_of_the_whole_clip(tmp_path):
    path = write_sheet(
        given(9), tmp_path / "sheet.png", layers=["frame"], columns=2, num_frames=3, style=STYLE
    )
    with Image.open(path) as sheet:
        pixels = np.asarray(sheet)
    assert pixels.shape[1] == 2 * 640 + 8
    half = pixels.shape[0] // 2
    levels = [pixels[200, 300], pixels[200, 900], pixels[half + 200, 300]]
    assert [int(level[0]) for level in levels] == [0, 80, 160]
    with pytest.raises(UserError, match="at least 1 column"):
        write_sheet(given(), tmp_path / "sheet.png", columns=0)


def test_a_sheet_shows_the_frame_behind_an_i_frame():
    assert sheet_frames("IPPPIPPPI", 3) == [1, 5, 8]
    assert sheet_frames("IIP", 2) == [0, 2]
    assert sheet_frames("IP", 12) == [1]


def test_each_frame_that_was_drawn_is_counted(tmp_path):
    counted = []
    write_sheet(given(9), tmp_path / "sheet.png", num_frames=3, on_frame=lambda: counted.append(1))
    write_pngs(given(9), tmp_path, last=1, on_frame=lambda: counted.append(2))
    write_movie(given(9), tmp_path / "m.gif", last=3, on_frame=lambda: counted.append(3))
    assert counted == [1] * 3 + [2] * 2 + [3] * 4


def test_tiles_are_set_out_in_rows():
    pages = [np.full((4, width, 3), 100 + width, np.uint8) for width in (5, 7, 6)]
    sheet = tile(pages, columns=2)
    assert sheet.shape == (16, 6 + 8 + 7, 3)
    assert (sheet[:4, :5] == 105).all()
    assert (sheet[:4, 14:] == 107).all()
    assert (sheet[12:, :6] == 106).all()
    assert fitted(sheet, 100, 100) is sheet
    assert fitted(sheet, 100, 8).shape[0] == 8


def test_layers_of_a_real_video_with_b_frames_are_drawn(real_videos, tmp_path):
    clip = open_clip(str(real_videos["nasa_320x180_h264_high_bframes.mp4"]))
    layers = available_layers(clip.facts)
    assert clip.facts.kinds[255] == "B"
    write_pngs(clip, tmp_path, layers=layers, first=255, last=255)
    assert len(list(tmp_path.iterdir())) == len(layers)
    [frame] = clip.frames(255, 256)
    # The camera draws back: the right side moves to the left, the left side to the right.
    across = movement(frame.motion)[..., 0]
    assert across[:, 15:25].mean() > 0.02
    assert across[:, 40:].mean() < -0.02
