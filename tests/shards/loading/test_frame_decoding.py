"""What a crop shows is the same pixels as of the whole frame, however few rows are decoded."""

import io

import numpy as np
import numpy.typing as npt
import pytest
import simplejpeg
from hypothesis import example, given
from hypothesis import strategies as st
from PIL import Image

from gopstream.shards.loading.frame_decoding import decode_rows, jpeg_header, jpeg_headers

_UNTOUCHED = 77


def _picture(width: int, height: int, *, seed: int = 0) -> npt.NDArray[np.uint8]:
    """Smooth colours and noise, so that each row differs from its neighbours."""
    rng = np.random.default_rng(seed)
    rows, columns = np.mgrid[:height, :width]
    smooth = np.stack([rows * 5, columns * 3, rows * 2 + columns], axis=-1)
    return np.asarray((smooth + rng.integers(0, 60, (height, width, 3))) % 256, np.uint8)


def _decoded(jpeg: bytes, num_rows: int) -> npt.NDArray[np.uint8]:
    header = jpeg_header(jpeg)
    out = np.full((header.height, header.width, 3), _UNTOUCHED, np.uint8)
    decode_rows(jpeg, header, num_rows=num_rows, out=out)
    return out


@given(
    width=st.integers(1, 70),
    height=st.integers(1, 90),
    sampling=st.sampled_from(["420", "422", "440", "444", "Gray"]),
    share=st.floats(0, 1),
)
def test_upper_rows_are_those_of_the_whole_frame(
    width: int, height: int, sampling: str, share: float
) -> None:
    picture = _picture(width, height)
    if sampling == "Gray":
        jpeg = simplejpeg.encode_jpeg(
            np.ascontiguousarray(picture[..., :1]), colorspace="GRAY", colorsubsampling="Gray"
        )
    else:
        jpeg = simplejpeg.encode_jpeg(picture, quality=90, colorsubsampling=sampling)
    num_rows = max(1, round(share * height))
    assert np.array_equal(
        _decoded(jpeg, num_rows)[:num_rows], simplejpeg.decode_jpeg(jpeg)[:num_rows]
    )


def test_lower_rows_are_not_decoded() -> None:
    jpeg = simplejpeg.encode_jpeg(_picture(64, 128), colorsubsampling="420")
    out = _decoded(jpeg, 30)
    assert np.array_equal(out[:30], simplejpeg.decode_jpeg(jpeg)[:30])
    assert (out[32:] == _UNTOUCHED).all()
    # The colours of row 31 are mixed from those of row 32, which is in the next unit of 16 rows.
    assert not np.array_equal(out[31], simplejpeg.decode_jpeg(jpeg)[31])
    assert (_decoded(jpeg, 31)[32:48] != _UNTOUCHED).any()


@pytest.mark.parametrize("options", [{"progressive": True}, {"restart_marker_rows": 1}])
def test_other_kinds_of_jpeg_are_decoded_right(options: dict[str, int]) -> None:
    file = io.BytesIO()
    Image.fromarray(_picture(64, 96)).save(file, "JPEG", quality=90, subsampling="4:2:0", **options)
    jpeg = file.getvalue()
    assert jpeg_header(jpeg).has_one_scan == ("progressive" not in options)
    assert np.array_equal(_decoded(jpeg, 20)[:20], simplejpeg.decode_jpeg(jpeg)[:20])


def test_a_jpeg_that_was_cut_is_an_error() -> None:
    jpeg = simplejpeg.encode_jpeg(_picture(64, 96), colorsubsampling="420")
    header = jpeg_header(jpeg)
    out = np.empty((96, 64, 3), np.uint8)
    with pytest.raises(ValueError, match="Premature end"):
        decode_rows(jpeg[: len(jpeg) // 2], header, num_rows=90, out=out)
    with pytest.raises(ValueError, match="Premature end"):
        decode_rows(jpeg[: len(jpeg) // 2], header, num_rows=20, out=out)


@pytest.mark.parametrize("length", [0, 1, 2, 3, 20, 170, 400, 612])
def test_headers_that_were_cut_are_an_error(length: int) -> None:
    jpeg = simplejpeg.encode_jpeg(_picture(64, 96), colorsubsampling="420")
    assert length < jpeg_header(jpeg).num_bytes
    with pytest.raises(ValueError, match="it has no"):
        jpeg_header(jpeg[:length])


@given(content=st.binary(max_size=80))
@example(content=b"\xff\xc0\x00\x02\xff\xda\x00\x02\x00")  # a frame header of no length
def test_any_other_bytes_are_an_error_or_a_header(content: bytes) -> None:
    try:
        header = jpeg_header(b"\xff\xd8" + content)
    except ValueError:
        return
    assert header.num_bytes <= len(content) + 2


def test_headers_of_many_are_those_of_each() -> None:
    pictures = [_picture(64, 96, seed=seed) for seed in range(4)]
    jpegs = [
        simplejpeg.encode_jpeg(picture, quality=quality, colorsubsampling=sampling)
        for picture, quality, sampling in zip(
            pictures, (90, 90, 80, 90), ("420", "420", "420", "444"), strict=True
        )
    ]
    jpegs.append(simplejpeg.encode_jpeg(_picture(48, 96), quality=90, colorsubsampling="444"))
    assert list(jpeg_headers(jpegs)) == [jpeg_header(jpeg) for jpeg in jpegs]
    assert list(jpeg_headers(map(memoryview, jpegs))) == [jpeg_header(jpeg) for jpeg in jpegs]
