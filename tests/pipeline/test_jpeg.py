import subprocess
from contextlib import closing

import numpy as np
import pytest
import simplejpeg
from PIL import Image

from gopstream.pipeline.jpeg import decode_frame, encode_frame, to_jpeg_colours
from gopstream.pipeline.probe import open_video
from gopstream.pipeline.transcode import (
    KEPT_MATRICES,
    CanonicalFormat,
    canonical_matrix,
    default_ffmpeg,
    transcode_frames,
)

# Y' = kr R' + (1 - kr - kb) G' + kb B'
WEIGHTS = {"bt709": (0.2126, 0.0722), "bt2020nc": (0.2627, 0.0593), "smpte170m": (0.299, 0.114)}


def convert(y, cb, cr, matrix):
    """Go from limited range by R'G'B' to full-range BT.601, in float64."""
    kr, kb = WEIGHTS[matrix]
    y, cb, cr = (y - 16) / 219, (cb - 128) / 224, (cr - 128) / 224
    red, blue = y + 2 * (1 - kr) * cr, y + 2 * (1 - kb) * cb
    green = (y - kr * red - kb * blue) / (1 - kr - kb)
    luma = 0.299 * red + 0.587 * green + 0.114 * blue
    scaled = (luma, (blue - luma) / 1.772 + 128 / 255, (red - luma) / 1.402 + 128 / 255)
    return [np.clip(255 * plane, 0, 255) for plane in scaled]


def psnr(first, second):
    error = np.square(first.astype(float) - second).mean()
    return 10 * np.log10(255**2 / error)


@pytest.mark.parametrize("matrix", KEPT_MATRICES)
def test_grey_stays_grey_and_fills_the_range(matrix):
    picture = np.full((24, 256), 128, np.uint8)
    picture[:16] = np.arange(256)
    y, cb, cr = to_jpeg_colours(picture, matrix=matrix)
    assert (cb == 128).all()
    assert (cr == 128).all()
    expected = np.clip((np.arange(256) - 16) * 255 / 219, 0, 255)
    assert np.abs(y - expected).max() <= 0.51
    assert (y[0, 16], y[0, 235]) == (0, 255)


@pytest.mark.parametrize("matrix", WEIGHTS)
def test_colours_are_those_of_the_float64_matrix_within_one_level(matrix):
    rng = np.random.default_rng(0)
    picture = rng.integers(16, 236, (96, 64), dtype=np.uint8)
    found = to_jpeg_colours(picture, matrix=matrix)
    flat = picture.reshape(-1).astype(float)
    luma, half = flat[: 64 * 64].reshape(64, 64), (32, 32)
    cb, cr = flat[64 * 64 : 64 * 80].reshape(half), flat[64 * 80 :].reshape(half)
    wide = [np.kron(plane, np.ones((2, 2))) for plane in (cb, cr)]
    expected = convert(luma, *wide, matrix)
    assert np.abs(found[0] - expected[0]).max() <= 1
    for plane, reference in zip(found[1:], expected[1:], strict=True):
        # Chroma of the result does not depend on luma, so any of the four pixels serves.
        assert np.abs(plane - reference[::2, ::2]).max() <= 1


def test_the_file_is_a_420_jpeg_that_any_reader_opens(tmp_path):
    picture = np.random.default_rng(0).integers(16, 236, (24, 32), dtype=np.uint8)
    encoded = encode_frame(picture, matrix="bt709", quality=90)
    (tmp_path / "a.jpg").write_bytes(encoded)
    with Image.open(tmp_path / "a.jpg") as opened:
        assert opened.size == (32, 16)
        assert opened.mode == "RGB"
    assert simplejpeg.decode_jpeg_header(encoded)[:4] == (16, 32, "YCbCr", "420")
    assert decode_frame(encoded).shape == (16, 32, 3)


def test_a_cut_jpeg_is_refused():
    encoded = encode_frame(np.full((96, 64), 90, np.uint8), matrix="bt709", quality=90)
    with pytest.raises(ValueError):
        decode_frame(encoded[: len(encoded) // 2])


def first_picture(path, tmp_path):
    """Return the scaled picture of the first frame and its matrix."""
    facts = open_video(path)
    frames = transcode_frames(
        facts, tmp_path / "a.nut", canonical=CanonicalFormat(), binary=default_ffmpeg()
    )
    with closing(frames):
        return next(frames), canonical_matrix(facts)


def to_rgb(picture, matrix):
    """Let FFmpeg convert the raw picture to RGB."""
    height, width = picture.shape[0] * 2 // 3, picture.shape[1]
    scale = f"scale=in_color_matrix={matrix}:in_range=tv:flags=accurate_rnd+full_chroma_int"
    command = [default_ffmpeg(), "-v", "error", "-f", "rawvideo", "-pix_fmt", "yuv420p"]
    command += ["-s", f"{width}x{height}", "-i", "-", "-vf", scale]
    command += ["-f", "rawvideo", "-pix_fmt", "rgb24", "-"]
    done = subprocess.run(command, input=picture.tobytes(), capture_output=True, check=True)
    return np.frombuffer(done.stdout, np.uint8).reshape(height, width, 3)


def loss_against_rgb_jpeg(path, tmp_path):
    """Return how many dB are lost against encoding the RGB picture."""
    picture, matrix = first_picture(path, tmp_path)
    rgb = to_rgb(picture, matrix)
    usual = simplejpeg.encode_jpeg(rgb, quality=90, colorsubsampling="420")
    ours = encode_frame(picture, matrix=matrix, quality=90)
    return psnr(decode_frame(usual), rgb) - psnr(decode_frame(ours), rgb)


def test_a_stored_frame_is_as_good_as_a_jpeg_made_from_rgb(small_video, tmp_path):
    assert loss_against_rgb_jpeg(small_video, tmp_path) <= 1.5


def test_frames_of_real_videos_are_as_good_as_a_jpeg_made_from_rgb(real_videos, tmp_path):
    losses = {name: loss_against_rgb_jpeg(path, tmp_path) for name, path in real_videos.items()}
    assert {name: loss for name, loss in losses.items() if loss > 1.5} == {}


def test_colours_beyond_the_range_are_cut_not_wrapped():
    """Limited range leaves room below black and above white, and saturated chroma."""
    for value, expected in ((0, 0), (15, 0), (236, 255), (255, 255)):
        picture = np.full((6, 4), 128, np.uint8)
        picture[:4] = value
        y, _, _ = to_jpeg_colours(picture, matrix="smpte170m")
        assert (y == expected).all()
    picture = np.full((6, 4), 128, np.uint8)
    picture[4], picture[5] = 255, 0
    _, cb, cr = to_jpeg_colours(picture, matrix="smpte170m")
    assert (cb == 255).all()
    assert (cr == 0).all()


def test_the_three_planes_lie_one_after_the_other():
    """I420: Cb fills the rows behind Y before Cr does."""
    picture = np.full((12, 8), 128, np.uint8)
    picture[8:10] = 100  # Cb of 4x4
    picture[10:] = 160
    y, cb, cr = to_jpeg_colours(picture, matrix="bt470bg")
    assert (y.shape, cb.shape, cr.shape) == ((8, 8), (4, 4), (4, 4))
    assert len(np.unique(cb)) == len(np.unique(cr)) == 1
    assert cb[0, 0] < 128 < cr[0, 0]


def test_two_encodings_are_the_same_bytes():
    picture = np.random.default_rng(3).integers(16, 236, (48, 32), dtype=np.uint8)
    first, second = (encode_frame(picture, matrix="bt709", quality=80) for _ in range(2))
    assert first == second
    assert len(encode_frame(picture, matrix="bt709", quality=20)) < len(first)
