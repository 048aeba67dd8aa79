"""Our vectors against another tool's, on a stream without B-frames, where that tool is right."""

from pathlib import Path

import av
import numpy as np
import pytest

from gopstream.pipeline.decode import open_coded
from gopstream.pipeline.motion import rasterise_vectors

videocap = pytest.importorskip("mvextractor.videocap", reason="mvextractor is not installed")


def write_p_only_video(path: Path) -> None:
    rng = np.random.default_rng(5)
    texture = rng.integers(0, 255, (20, 28, 3), np.uint8).repeat(8, axis=0).repeat(8, axis=1)
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=25)
        stream.width, stream.height, stream.pix_fmt = 96, 64, "yuv420p"
        stream.codec_context.options = {"x264-params": "bframes=0:ref=1:keyint=12:threads=1"}
        for t in range(20):
            frame = av.VideoFrame.from_ndarray(texture[t : t + 64, 2 * t : 2 * t + 96], "rgb24")
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))


def test_vectors_equal_those_of_mvextractor(tmp_path):
    path = tmp_path / "p_only.mp4"
    write_p_only_video(path)
    capture = videocap.VideoCap()
    assert capture.open(str(path))
    num_vectors = 0
    with open_coded(path) as stream:
        for frame in stream.frames:
            succeeded, _, theirs, kind = capture.read()
            assert succeeded
            assert kind == frame.kind
            if frame.vectors is None:
                assert len(theirs) == 0
                continue
            height, width = frame.planes.y.shape
            ours = rasterise_vectors(frame.vectors, coded_height=height, coded_width=width)
            # Columns: source, w, h, src_x, src_y, dst_x, dst_y, motion_x, motion_y, motion_scale.
            for _, w, h, _, _, dst_x, dst_y, motion_x, motion_y, scale in theirs.tolist():
                top, left = (dst_y - h // 2) // 8, (dst_x - w // 2) // 8
                cells = ours.motion[0, top : top + h // 8, left : left + w // 8]
                assert (cells == [motion_x * 4 // scale, motion_y * 4 // scale]).all()
                num_vectors += 1
            assert ours.coverage.sum() == sum(w * h // 64 for _, w, h, *_ in theirs.tolist())
    assert num_vectors > 100
    assert not capture.read()[0]
