"""Native windows: motion and pictures are those of the whole video, however decoding began."""

import subprocess

import numpy as np
import pytest

from gopstream.pipeline.audit import audit_stream
from gopstream.pipeline.errors import BitstreamError
from gopstream.pipeline.extract import extract_clip, extract_segments
from gopstream.pipeline.options import ExtractionOptions
from gopstream.pipeline.probe import open_video
from gopstream.pipeline.transcode import default_ffmpeg
from gopstream.pipeline.window import TimeWindow, locate_window


def joined(path, parts):
    """Put streams one behind the other; each keeps what x264 says of itself in front of it."""
    stream = path.with_name(f"joined{parts[0].suffix}")
    stream.write_bytes(b"".join(part.read_bytes() for part in parts))
    rate = ["-r", "30"] if stream.suffix == ".h264" else []
    command = [default_ffmpeg(), "-v", "error", *rate, "-i", stream, "-c", "copy", path]
    subprocess.run(command, check=True)
    return path


WITH_VECTORS = [
    "late.mp4",
    "open_gops.mp4",
    "variable.mkv",
    "refresh.mkv",
    "mpeg4.avi",
    "open_gops.ts",
    "mpeg2.mpg",
]


@pytest.mark.parametrize("name", WITH_VECTORS)
def test_native_windows_hold_the_motion_and_pictures_of_the_whole_video(name, tmp_path, make):
    path = make(tmp_path / name)
    options = ExtractionOptions(mode="native", segment_frames=16)
    whole = extract_clip(path, options=options)
    for window in (TimeWindow(1.3, 2.5), TimeWindow(4 / 3, 2.0), TimeWindow(4.0, None)):
        cut = locate_window(open_video(path), window)
        expected = [index for index, pts in enumerate(whole.pts.tolist()) if cut.holds(pts)]
        clips = list(extract_segments(path, window=window, options=options))
        assert np.concatenate([clip.pts for clip in clips]).tolist() == whole.pts[expected].tolist()
        assert "".join(clip.kinds for clip in clips) == "".join(whole.kinds[i] for i in expected)
        num_lists = clips[0].motion.shape[1]
        for plane in ("motion", "coverage"):
            got = np.concatenate([getattr(clip, plane) for clip in clips])
            want = getattr(whole, plane)[expected]
            np.testing.assert_array_equal(got, want[:, :num_lists], err_msg=plane)
            assert not want[:, num_lists:].any()
        jpegs = [jpeg for clip in clips for jpeg in clip.jpegs]
        assert jpegs == [whole.jpegs[index] for index in expected]
        assert [clip.first_frame for clip in clips] == list(range(0, len(expected), 16))
        assert not any(clip.damaged_frames for clip in clips)
        said = {warning for clip in clips for warning in clip.warnings}
        assert all("which one a vector leads to" in line or line in whole.warnings for line in said)


def test_a_native_window_has_a_residual_where_it_begins_with_an_i_frame(tmp_path, make_canonical):
    path = joined(tmp_path / "a.mp4", [make_canonical(tmp_path / "part.h264", num_frames=60)] * 2)
    options = ExtractionOptions(mode="native")
    whole = extract_clip(path, options=options)
    (clip,) = extract_segments(path, window=TimeWindow(2.0, 3.0), options=options)
    assert clip.exactness == "exact"
    assert clip.kinds[0] == "I"
    np.testing.assert_array_equal(clip.residual.planes, whole.residual.planes[60:90])
    assert clip.decoded_sha256 == whole.decoded_sha256[3:4] + clip.decoded_sha256[1:]
    (clip,) = extract_segments(path, window=TimeWindow(0.1, 0.6), options=options)
    assert clip.residual is None
    assert clip.exactness == "the first picture of the window is no I-frame"
    # Its vectors are those of the stream, into a frame that is not in the clip.
    np.testing.assert_array_equal(clip.motion, whole.motion[3:18])


def test_the_audit_of_a_window_sees_the_window(tmp_path, make, make_canonical):
    """P-frames alone at first, then B-frames."""
    parts = [
        make_canonical(tmp_path / "p.ts", num_frames=60),
        make(tmp_path / "b.ts", "-c:v libx264 -bf 3 -threads 1 -output_ts_offset 2", num_frames=60),
    ]
    path = joined(tmp_path / "joined.mkv", parts)
    facts = open_video(path)
    assert audit_stream(path).has_b_frames
    early = audit_stream(path, cut=locate_window(facts, TimeWindow(0.5, 1.5)))
    assert early.has_b_frames is False
    assert early.is_exact
    late = audit_stream(path, cut=locate_window(facts, TimeWindow(2.5, 3.5)))
    assert late.has_b_frames


def test_mvextractor_cannot_cut_a_window(small_video):
    clips = extract_segments(
        small_video,
        window=TimeWindow(0.2, 1.0),
        options=ExtractionOptions(mode="native", backend="mvextractor"),
    )
    with pytest.raises(BitstreamError, match="choose backend pyav"):
        next(clips)
