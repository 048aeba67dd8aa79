import subprocess
from collections import Counter

import av
import numpy as np
import pytest

from gopstream.jobs.bench import jpeg_colours, same_bytes, skip_proof
from gopstream.pipeline.errors import BitstreamError
from gopstream.pipeline.probe import open_video

HEIGHT, WIDTH, NUM_FRAMES = 64, 96, 24

MAP = """\
[h264 @ 0x55b7] New frame, type: I
[h264 @ 0x55b7]     0           64
[h264 @ 0x55b7]   0 i  I  A  I  I  \n\
[h264 @ 0x55b7]  16 I  I  I  P  I  \n\
Input #0, nut, from 'a.nut':
[h264 @ 0x66c8] New frame, type: I
[h264 @ 0x66c8]     0           64
[h264 @ 0x66c8]   0 I  I  I  I  I  \n\
[h264 @ 0x66c8]  16 I  I  I  I  I  \n\
[h264 @ 0x66c8] nal_unit_type: 1(Coded slice of a non-IDR picture), nal_ref_idc: 2
[h264 @ 0x66c8] New frame, type: P
[h264 @ 0x66c8]     0           64
[h264 @ 0x66c8]   0 S  >- >| >+ >  \n\
[null @ 0x77d9] something else in between
[h264 @ 0x66c8]  16 i  S  S  >  S  \n\
"""


@pytest.fixture(scope="module")
def moving_clip(tmp_path_factory):
    """A smooth texture that moves by 1.25 pixels a frame: its skips have fractional vectors."""
    path = tmp_path_factory.mktemp("clip") / "moving.mp4"
    rng = np.random.default_rng(3)
    spectrum = np.fft.rfft2(rng.standard_normal((256, 256)))
    rows, columns = np.fft.fftfreq(256)[:, None], np.fft.rfftfreq(256)[None]
    spectrum *= np.exp(-((np.hypot(rows, columns) / 0.08) ** 2))
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=24, options={"crf": "10"})
        stream.width, stream.height, stream.pix_fmt = WIDTH, HEIGHT, "yuv420p"
        for index in range(NUM_FRAMES):
            moved = spectrum * np.exp(2j * np.pi * 1.25 * index * columns)
            texture = np.fft.irfft2(moved)[:HEIGHT, :WIDTH]
            grey = np.clip(128 + 45 * texture / texture.std(), 0, 255).astype(np.uint8)
            picture = av.VideoFrame.from_ndarray(np.stack([grey] * 3, axis=2), format="rgb24")
            container.mux(stream.encode(picture))
        container.mux(stream.encode(None))
    return path


@pytest.fixture(scope="module")
def counts(moving_clip):
    return skip_proof.count_video(open_video(moving_clip))


def test_every_skipped_macroblock_is_exact(counts):
    assert counts["frames"] == NUM_FRAMES
    assert counts["skipped"] > 0
    assert counts["exact_y"] == counts["exact_cb_cr"] == counts["skipped"]
    assert counts["inter_without_vector"] == counts["intra_with_vector"] == 0
    assert counts["inter"] + counts["intra"] == NUM_FRAMES * HEIGHT * WIDTH // 16**2


@pytest.mark.parametrize("control", skip_proof.CONTROLS)
def test_wrong_prediction_fails(counts, control):
    assert counts[f"exact_{control}"] < 0.9 * counts["skipped"]


def test_claim_holds_and_each_breach_of_it_is_named(counts):
    assert skip_proof.failures(counts) == []
    assert skip_proof.failures(Counter())
    for name in ("exact_y", "exact_cb_cr"):
        (found,) = skip_proof.failures(_with(counts, name, -1))
        assert found.startswith(name)
    for name in ("inter_without_vector", "intra_with_vector"):
        assert skip_proof.failures(_with(counts, name, 1)) == [f"{name}: 1, must be 0"]
    spoiled = Counter(counts)
    spoiled["exact_bilinear"] = counts["skipped"]
    assert skip_proof.failures(spoiled) == ["the control 'bilinear' did not fail"]


def _with(counts, name, change):
    changed = Counter(counts)
    changed[name] += change
    return changed


def test_maps_are_those_of_the_last_decoder():
    maps = skip_proof.parse_macroblock_maps(MAP.splitlines(), num_rows=2, num_columns=5)
    assert [entry.kind for entry in maps] == ["I", "P"]
    assert maps[0].types.tolist() == [list("IIIII")] * 2
    assert maps[1].types.tolist() == [list("S>>>>"), list("iSS>S")]


@pytest.mark.parametrize("size", [(3, 5), (2, 6)])
def test_map_of_another_size_is_refused(size):
    with pytest.raises(BitstreamError, match=r"must have \d rows of \d macroblocks"):
        skip_proof.parse_macroblock_maps(MAP.splitlines(), num_rows=size[0], num_columns=size[1])


def test_map_without_a_row_is_refused():
    lines = [line for line in MAP.splitlines() if not line.startswith("[h264 @ 0x66c8]   0 S")]
    with pytest.raises(BitstreamError, match="row 16 of a macroblock map follows 0"):
        skip_proof.parse_macroblock_maps(lines, num_rows=2, num_columns=5)


def test_bilinear_control_is_bilinear():
    reference = np.arange(16 * 16, dtype=np.uint8).reshape(16, 16)
    motion = np.zeros((2, 2, 2), np.int16)
    assert (skip_proof.predict_luma_bilinear(reference, motion) == reference).all()
    motion[0, 0] = (6, -7)  # 1.5 right, 1.75 up
    predicted = skip_proof.predict_luma_bilinear(reference, motion)
    assert predicted[4, 2] == np.floor((4 - 1.75) * 16 + 2 + 1.5 + 0.5)
    assert (predicted[8:] == reference[8:]).all()


def test_differences_name_each_file():
    baseline, other = {"a": "1", "b": "2", "c": "3"}, {"a": "1", "b": "9", "d": "4"}
    assert same_bytes.differences(baseline, baseline) == []
    assert same_bytes.differences(baseline, other) == [
        "c: missing",
        "d: not in the baseline",
        "b: differs",
    ]


def test_wrapper_forwards_and_turns_simd_off(tmp_path):
    wrapper, log = tmp_path / "wrapper", tmp_path / "log"
    same_bytes.write_wrapper(wrapper, binary="/bin/echo", log=log)

    def run(*arguments):
        return subprocess.run([wrapper, *arguments], capture_output=True, text=True).stdout.strip()

    assert run("-version") == "-cpuflags 0 -version"
    assert run("-x264-params", "a=1:b=2", "x y") == "-cpuflags 0 -x264-params a=1:b=2:asm=0 x y"
    assert log.read_text().split() == ["plain", "x264"]


def test_jpegs_are_near_the_peer(moving_clip):
    row = jpeg_colours.compare_video(open_video(moving_clip))
    assert row["frames"] == 2
    assert jpeg_colours.failures(row) == []
    assert row["planes"]["ours_db"] > 35
    row["source"] = row["source"] | {"ours_db": row["source"]["peer_db"] - 1.6}
    assert len(jpeg_colours.failures(row)) == 1
