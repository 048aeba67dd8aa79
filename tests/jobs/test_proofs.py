import hashlib
import stat
import subprocess
from collections import Counter

import av
import numpy as np
import pytest

from gopstream.jobs.bench import (
    coefficients,
    jpeg_colours,
    macroblock_maps,
    plain_twins,
    proof_videos,
    same_bytes,
    skip_proof,
)
from gopstream.pipeline.errors import BitstreamError
from gopstream.pipeline.h264_syntax import parse_picture_parameters
from gopstream.pipeline.probe import open_video
from gopstream.pipeline.transcode import (
    CanonicalFormat,
    canonical_size,
    default_ffmpeg,
    transcode_frames,
)

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


def test_every_macroblock_without_coefficients_is_exact(counts):
    assert counts["frames"] == NUM_FRAMES
    assert counts["exact_y"] == counts["exact_cb_cr"] == counts["skipped"] > 0
    assert counts["free_y_exact"] == counts["free_y"] > counts["skipped"]
    assert counts["free_cb_cr_exact"] == counts["free_cb_cr"] > counts["skipped"]
    assert counts["free_coded_exact"] == counts["free_coded"] > 0
    assert counts["inter_without_vector"] == counts["intra_with_vector"] == 0
    assert counts["inter"] + counts["intra"] == counts["macroblocks"] == NUM_FRAMES * 24


def test_kinds_of_macroblocks_add_up(counts):
    assert counts["skipped_with_coefficients"] == 0
    free = counts["skipped"] + counts["free_coded"]
    assert free + counts["coefficients"] == counts["inter"]
    assert counts["coefficients_exact"] < 0.01 * counts["coefficients"]
    assert counts["twin_frames"] == NUM_FRAMES - 1
    # Motion, coverage, zero macroblocks; three times all samples, and no exceptions.
    grid, samples = WIDTH * HEIGHT // 64, WIDTH * HEIGHT * 3 // 2
    assert counts["twin_samples"] >= (NUM_FRAMES - 1) * (grid * 3 + 24 + 3 * samples)
    assert counts["twin_differences"] == 0


@pytest.mark.parametrize("control", skip_proof.CONTROLS)
def test_wrong_prediction_fails(counts, control):
    assert counts[f"exact_{control}"] < 0.9 * counts["skipped"]
    assert counts[f"free_{control}"] < 0.9 * counts["free_y"]


def test_claim_holds_and_each_breach_of_it_is_named(counts):
    assert skip_proof.failures(counts) == []
    assert skip_proof.failures(Counter())
    parts = ("exact_y", "exact_cb_cr", "free_y_exact", "free_cb_cr_exact", "free_coded_exact")
    for name in parts:
        (found,) = skip_proof.failures(_with(counts, name, -1))
        assert found.startswith(name)
    never = ("inter_without_vector", "intra_with_vector", "skipped_with_coefficients")
    for name in (*never, "twin_differences"):
        assert skip_proof.failures(_with(counts, name, 1)) == [f"{name}: 1, must be 0"]
    for kind, whole in (("exact", "skipped"), ("free", "free_y")):
        spoiled = Counter(counts)
        spoiled[f"{kind}_bilinear"] = counts[whole]
        (found,) = skip_proof.failures(spoiled)
        assert found == f"the control 'bilinear' did not fail on {whole} macroblocks"


def _with(counts, name, change):
    changed = Counter(counts)
    changed[name] += change
    return changed


def test_proof_fails_with_a_predictor_that_rounds_vectors(moving_clip, monkeypatch):
    right = skip_proof.predict_planes

    def round_vectors(reference, motion, coverage):
        return right(reference, motion & ~3, coverage)

    monkeypatch.setattr(skip_proof, "predict_planes", round_vectors)
    found = skip_proof.failures(skip_proof.count_video(open_video(moving_clip)))
    assert {text.partition(":")[0] for text in found} >= {"exact_y", "free_y_exact"}


def test_kernels_that_differ_from_their_twins_are_counted(moving_clip, monkeypatch):
    right = plain_twins.plain_compensation.predict_planes

    def change_one_sample(reference, motion, coverage):
        predicted = right(reference, motion, coverage)
        predicted.cr[3, 5] ^= 1
        return predicted

    monkeypatch.setattr(plain_twins.plain_compensation, "predict_planes", change_one_sample)
    counts = skip_proof.count_video(open_video(moving_clip))
    assert counts["twin_differences"] == NUM_FRAMES - 1


def test_unequal_values_are_counted_and_shapes_are_not_forgiven():
    ones, other = np.ones((2, 3)), np.array([[1, 1, 1], [1, 0, 2]])
    assert plain_twins.count_unequal([(ones, ones), (ones, other)]) == 2
    assert plain_twins.count_unequal([(ones, np.ones((4, 2)))]) == 8
    assert plain_twins.count_unequal([(np.ones(0), np.ones((0, 2)))]) == 1


@pytest.mark.parametrize(("pixels", "stride"), [(96 * 64, 1), (340 * 256, 1), (1920 * 1088, 8)])
def test_large_frames_are_compared_with_twins_less_often(pixels, stride):
    assert plain_twins.twin_stride(pixels) == stride


def test_only_the_scaling_lists_of_a_parameter_set_change():
    # As x264 writes it: High profile, 8x8 transform, no lists, chroma offset -2 twice.
    unit = bytes.fromhex("68ee06cb22c0")
    heavy = coefficients.with_heavy_weights(unit)
    assert parse_picture_parameters(heavy) == parse_picture_parameters(unit)
    bits, new = (f"{int.from_bytes(text[1:], 'big'):b}" for text in (unit, heavy))
    # Up to transform_8x8_mode_flag, no lists, the second chroma offset, the stop bit.
    start = "111011100000011011001011001"
    assert bits.rstrip("0") == start + "0" + "00101" + "1"
    assert new.rstrip("0") == start + "1" + 8 * "1000010011010" + "00101" + "1"
    with pytest.raises(BitstreamError, match="has scaling lists already"):
        coefficients.with_heavy_weights(heavy)


@pytest.fixture(scope="module")
def changing_stream(tmp_path_factory):
    """A canonical stream of a still picture.

    The luma of macroblock (1, 2) changes in frame 4, the Cr alone of (2, 4) in frame 7.
    """
    folder = tmp_path_factory.mktemp("changing")
    texture = proof_videos.draw_texture(np.random.default_rng(5), HEIGHT, WIDTH)
    y, cb, cr = texture[..., 0].copy(), texture[::2, ::2, 1].copy(), texture[::2, ::2, 2].copy()
    with av.open(str(folder / "source.mkv"), "w") as container:
        stream = container.add_stream("ffv1", rate=25)
        stream.width, stream.height, stream.pix_fmt = WIDTH, HEIGHT, "yuv420p"
        for index in range(14):
            if index == 4:
                y[16:32, 32:48] = 255 - y[16:32, 32:48]
            if index == 7:
                cr[16:24, 32:40] = 255 - cr[16:24, 32:40]
            planes = np.concatenate([y.ravel(), cb.ravel(), cr.ravel()]).reshape(-1, WIDTH)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(planes, "yuv420p")))
        container.mux(stream.encode(None))
    path = folder / "canonical.nut"
    facts = open_video(folder / "source.mkv")
    canonical = CanonicalFormat(crf=8)
    for _ in transcode_frames(facts, path, canonical=canonical, binary=default_ffmpeg()):
        pass
    return path


def test_macroblocks_with_coefficients_are_found(changing_stream):
    unchanged = list(coefficients.unchanged_macroblocks(changing_stream))
    assert len(unchanged) == 14
    for index in (0, 12):  # both begin a GOP
        assert not unchanged[index].y.any()
        assert not unchanged[index].cb_cr.any()
    assert not unchanged[4].y[1, 2]
    assert unchanged[4].y[3].all()
    assert not unchanged[7].cb_cr[2, 4]
    assert unchanged[7].y.all()
    assert unchanged[7].cb_cr[0].all()
    assert unchanged[4].y.shape == unchanged[4].cb_cr.shape == (4, 6)
    assert all(unchanged[index].y.all() for index in (10, 11))


def test_stream_that_counts_lengths_is_refused(small_video):
    with pytest.raises(BitstreamError, match="got lengths of 4 bytes, 1 sets"):
        list(coefficients.unchanged_macroblocks(small_video))


def test_maps_are_those_of_the_last_decoder():
    maps = macroblock_maps.parse_macroblock_maps(MAP.splitlines(), num_rows=2, num_columns=5)
    assert [entry.kind for entry in maps] == ["I", "P"]
    assert maps[0].types.tolist() == [list("IIIII")] * 2
    assert maps[1].types.tolist() == [list("S>>>>"), list("iSS>S")]


@pytest.mark.parametrize("size", [(3, 5), (2, 6)])
def test_map_of_another_size_is_refused(size):
    with pytest.raises(BitstreamError, match=r"must have \d rows of \d macroblocks"):
        macroblock_maps.parse_macroblock_maps(
            MAP.splitlines(), num_rows=size[0], num_columns=size[1]
        )


def test_map_without_a_row_is_refused():
    lines = [line for line in MAP.splitlines() if not line.startswith("[h264 @ 0x66c8]   0 S")]
    with pytest.raises(BitstreamError, match="row 16 of a macroblock map follows 0"):
        macroblock_maps.parse_macroblock_maps(lines, num_rows=2, num_columns=5)


def test_torn_map_is_read_again(tmp_path, monkeypatch):
    log, calls = tmp_path / "log.txt", tmp_path / "calls.txt"
    log.write_text(MAP)
    script = tmp_path / "ffmpeg"
    # Another thread's line falls into a row, the first time.
    torn = "sed 's/0 S  >- />&\\n/'"
    script.write_text(
        f"#!/bin/sh\necho >> {calls}\n"
        f"if [ $(wc -l < {calls}) = 1 ]; then {torn} {log} >&2; else cat {log} >&2; fi\n"
    )
    script.chmod(script.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setattr(macroblock_maps, "default_ffmpeg", lambda: str(script))
    maps = macroblock_maps.read_macroblock_maps(tmp_path, num_rows=2, num_columns=5)
    assert maps[1].types.tolist() == [list("S>>>>"), list("iSS>S")]
    assert len(calls.read_text()) == 2
    with pytest.raises(BitstreamError, match="must have 3 rows"):
        macroblock_maps.read_macroblock_maps(tmp_path, num_rows=3, num_columns=5)


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


def test_synthetic_videos_are_the_same_each_time(tmp_path):
    hashes = set()
    for name in ("first", "second"):
        folder = tmp_path / name
        folder.mkdir()
        path = proof_videos.make_proof_video("odd_97x61", folder)
        hashes.add(hashlib.sha256(path.read_bytes()).hexdigest())
    assert len(hashes) == 1


@pytest.mark.parametrize("name", proof_videos.PROOF_VIDEOS)
def test_synthetic_videos_have_pictures_of_their_size(name):
    video = proof_videos.PROOF_VIDEOS[name]._replace(num_frames=9)
    shapes = [picture.shape for picture in video.draw(video, np.random.default_rng(0))]
    assert shapes == [(video.height, video.width, 3)] * 9


def test_odd_videos_have_coded_pictures_that_are_cropped(tmp_path):
    facts = open_video(proof_videos.make_proof_video("odd_97x61", tmp_path))
    assert (facts.width, facts.height) == (97, 61)
    assert canonical_size(facts, 256) == (96, 60)


def test_view_is_cut_at_quarter_pixels():
    texture = np.zeros((4, 5, 3), np.uint8)
    texture[1, 2] = 160
    view = proof_videos.cut_view(texture, 4 + 1, 2, height=2, width=3)  # 1.25 right, 0.5 down
    assert view[..., 0].tolist() == [[20, 60, 0], [20, 60, 0]]
