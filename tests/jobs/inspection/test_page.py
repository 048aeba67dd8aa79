"""What the player is sent, and the pages as files."""

import base64
import hashlib
import json
import re
from dataclasses import replace

import numpy as np
import pytest
import simplejpeg

from gopstream.jobs.errors import UserError
from gopstream.jobs.inspection.clip_payload import (
    VECTOR_COLUMNS,
    block_residual,
    clip_payload,
    frame_payload,
    pack_array,
    player_vectors,
    unpack_array,
)
from gopstream.jobs.inspection.dataset_page import write_dataset_page
from gopstream.jobs.inspection.frame_statistics import frame_statistics
from gopstream.jobs.inspection.inspected import SignedResidual
from gopstream.jobs.inspection.open_target import open_clip
from gopstream.jobs.inspection.page import MODULES, STATIC, write_page
from gopstream.shards.reader import ShardDataset
from inspection_cases import HOSTILE_LABEL, make_dataset, make_exact_video, make_failed_dataset

HOSTILE_NAME = '</script><img src=x onerror="alert(1)">&\udcff'


class Renamed:
    """A clip under another name and label."""

    def __init__(self, clip):
        self.facts = replace(clip.facts, name=HOSTILE_NAME, label=HOSTILE_LABEL)
        self.frames = clip.frames


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    return open_clip(str(make_exact_video(tmp_path_factory.mktemp("video"), num_frames=8)))


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    return make_dataset(tmp_path_factory.mktemp("dataset"), videos_per_class=1, num_frames=4)


def read_blocks(path):
    """Return the data of a page by its id."""
    found = re.findall(
        r'<script type="application/json" id="([\w-]+)">(.*?)</script>', path.read_text("ascii")
    )
    return {name: json.loads(text) for name, text in found}


@pytest.mark.parametrize("dtype", [np.int16, np.uint16, np.uint8])
def test_arrays_survive_the_packing(dtype):
    limits = np.iinfo(dtype)
    array = np.linspace(limits.min, limits.max, 24).astype(dtype).reshape(2, 3, 4)
    packed = json.loads(json.dumps(pack_array(array.astype(array.dtype.newbyteorder(">")))))
    assert packed["dtype"] == array.dtype.name
    assert np.array_equal(unpack_array(packed), array)
    assert np.array_equal(unpack_array(pack_array(array[::-1, :, 1])), array[::-1, :, 1])


def test_a_blocks_residual_is_the_sum_of_its_pixels():
    y = np.random.default_rng(3).integers(-255, 256, (16, 32)).astype(np.int16)
    y[:8, :8] = -255
    sums = block_residual(SignedResidual(y, y, y))
    slow = [
        [int(sum(abs(int(v)) for v in y[r : r + 8, c : c + 8].flat)) for c in range(0, 32, 8)]
        for r in (0, 8)
    ]
    assert sums.tolist() == slow
    assert sums[0, 0] == 64 * 255


def test_vectors_are_sent_in_quarter_pixels_whatever_their_scale():
    rows = np.array(
        [[-1, 16, 8, 0, 0, 24, 12, -3, 5, 4], [1, 8, 8, 0, 0, 4, 4, -3, 5, 2]], np.int32
    )
    assert VECTOR_COLUMNS == ("source", "w", "h", "dst_x", "dst_y", "motion_x", "motion_y")
    assert player_vectors(rows).tolist() == [[-1, 16, 8, 24, 12, -3, 5], [1, 8, 8, 4, 4, -6, 10]]
    rows[0, 7:9] = 2**31 - 1, -(2**31)  # of a dump: as long as can be sent
    rows[0, 9] = 1
    assert player_vectors(rows)[0, -2:].tolist() == [2**15 - 1, -(2**15)]


def test_a_frame_is_sent_as_it_is(clip):
    for frame in clip.frames():
        sent = json.loads(json.dumps(frame_payload(frame, clip.facts), allow_nan=False))
        assert (sent["index"], sent["kind"]) == (frame.index, clip.facts.kinds[frame.index])
        assert sent["time"] == clip.facts.times[frame.index]
        assert np.array_equal(unpack_array(sent["motion"]), frame.motion.motion)
        assert np.array_equal(unpack_array(sent["coverage"]), frame.motion.coverage)
        assert np.array_equal(unpack_array(sent["residual"]), block_residual(frame.residual))
        assert unpack_array(sent["vectors"]).shape == (len(frame.vectors), 7)
        assert sent["statistics"]["num_vectors"] == frame_statistics(frame).num_vectors
        assert (
            np.abs(decode(sent["picture"]).astype(int) - frame.picture).mean() < 8
        )  # a lossy copy


def test_the_signed_picture_is_four_times_the_residual_and_grey_where_intra(clip):
    frame = next(
        frame
        for frame in clip.frames()
        if frame.kind == "P" and not frame.motion.coverage[0].all() and frame.residual.y.any()
    )
    shown = decode(frame_payload(frame, clip.facts)["residual_picture"], "GRAY")[..., 0].astype(int)
    is_covered = np.kron(frame.motion.coverage[0], np.ones((8, 8))) == 1
    expected = np.where(is_covered, np.clip(128 + 4 * frame.residual.y, 0, 255), 128)
    assert np.abs(frame.residual.y[~is_covered]).max() > 8  # stored against 128: not shown
    assert np.abs(shown - expected).mean() < 4


def test_what_a_source_lacks_is_null(clip):
    (frame,) = clip.frames(1, 2)
    bare = frame._replace(picture=None, motion=None, vectors=None, residual=None)
    sent = frame_payload(bare, clip.facts)
    lacking = ("picture", "residual_picture", "motion", "coverage", "vectors", "residual")
    assert [sent[name] for name in lacking] == [None] * 6


def test_times_that_are_no_numbers_are_null(clip):
    times = np.array([0.0, np.nan, np.inf, *clip.facts.times[3:]])
    sent = clip_payload(replace(clip.facts, times=times, stream={"rate": np.nan, "file": b"x"}))
    assert sent["times"][:3] == [0.0, None, None]
    assert json.loads(json.dumps(sent, allow_nan=False))["stream"] == {"rate": None, "file": "b'x'"}


def test_a_dumps_numbers_of_frames_are_no_times(clip):
    facts = replace(clip.facts, times=np.arange(8.0), has_times=False)
    (frame,) = clip.frames(2, 3)
    assert clip_payload(facts)["times"] == [None] * 8
    assert frame_payload(frame, facts)["time"] is None


def test_names_and_labels_are_data(clip, tmp_path):
    write_page(Renamed(clip), tmp_path / "clip.html")
    text = (tmp_path / "clip.html").read_text("ascii")
    blocks = read_blocks(tmp_path / "clip.html")
    assert text.count("<script") == text.count("</script>") == len(blocks) + 1
    assert "<img" not in text
    assert "<b>" not in text
    assert "<title>&lt;/script&gt;&lt;img" in text
    assert (blocks["clip"]["name"], blocks["clip"]["label"]) == (HOSTILE_NAME, HOSTILE_LABEL)


def test_the_page_runs_and_loads_only_what_is_in_it(clip, tmp_path):
    write_page(clip, tmp_path / "clip.html")
    text = (tmp_path / "clip.html").read_text("ascii")
    script = re.search(r'<script type="module">(.*?)</script>', text, re.DOTALL)[1]
    style = re.search(r"<style>(.*?)</style>", text, re.DOTALL)[1]
    policy = re.search(r'Content-Security-Policy" content="([^"]*)"', text)[1].split("; ")
    assert policy == [
        "default-src 'none'",
        f"style-src 'sha256-{sha256(style)}'",
        "img-src data:",
        f"script-src 'sha256-{sha256(script)}'",
        "base-uri 'none'",
        "form-action 'none'",
    ]
    assert not re.search(r"^import |\bfetch\(|XMLHttp|innerHTML|\beval\(", script, re.MULTILINE)
    assert re.findall(r"https?://[^\"]*", script + style) == ["http://www.w3.org/2000/svg"]


def test_modules_stand_after_those_that_they_import():
    for position, name in enumerate(MODULES):
        text = (STATIC / name).read_text("ascii")
        assert "</script" not in text
        imported = re.findall(r'^(?!//).*from "\./([a-z_]+\.js)";', text, re.MULTILINE)
        assert set(imported) <= set(MODULES[:position]), name


def test_the_page_has_the_frames_that_were_asked_for(clip, tmp_path):
    write_page(clip, tmp_path / "some.html", first=2, last=4)
    blocks = read_blocks(tmp_path / "some.html")
    assert list(blocks) == ["frame-2", "frame-3", "frame-4", "clip"]
    assert (blocks["clip"]["first"], blocks["clip"]["last"]) == (2, 4)
    assert [one["index"] for one in blocks["clip"]["statistics"]] == [2, 3, 4]
    with pytest.raises(IndexError, match="frames 0 to 7"):
        write_page(clip, tmp_path / "none.html", first=2, last=8)


def test_a_page_that_would_be_too_large_is_not_written(clip, tmp_path):
    write_page(clip, tmp_path / "clip.html")
    num_bytes = (tmp_path / "clip.html").stat().st_size
    write_page(clip, tmp_path / "clip.html", max_bytes=num_bytes)
    for max_bytes, frames in [(num_bytes - 1, "0 to 7"), (num_bytes * 3 // 4, r"0 to [1-6] alone")]:
        with pytest.raises(UserError, match=f"frames {frames} are more than .* 'gopstream view'"):
            write_page(clip, tmp_path / "large.html", max_bytes=max_bytes)
    assert [path.name for path in tmp_path.iterdir()] == ["clip.html"]


def test_the_same_clip_gives_the_same_bytes(clip, tmp_path):
    for name in ("one.html", "two.html"):
        write_page(clip, tmp_path / name)
    assert (tmp_path / "one.html").read_bytes() == (tmp_path / "two.html").read_bytes()


def test_a_datasets_page_counts_its_samples_and_shows_them(root, tmp_path):
    write_dataset_page(ShardDataset(root, "train"), tmp_path / "set.html")
    text = (tmp_path / "set.html").read_text("ascii")
    assert "<dt>Samples</dt><dd>2</dd>" in text
    assert "No video failed." in text
    assert re.findall(r'<th scope="row" title="([^"]*)">', text)[:2] == [
        "&lt;script&gt;alert(1)&lt;b&gt;",
        "move",
    ]
    jpegs = re.findall(r'src="data:image/jpeg;base64,([^"]*)"', text)
    assert [simplejpeg.decode_jpeg(base64.b64decode(one)).shape for one in jpegs] == [
        (64, 64, 3)
    ] * 2
    assert "<script" not in text
    assert "script-src" not in text
    assert "<b>" not in text


def test_a_datasets_page_says_what_failed(tmp_path):
    root = make_failed_dataset(tmp_path)
    write_dataset_page(ShardDataset(root, "train"), tmp_path / "set.html")
    text = (tmp_path / "set.html").read_text("ascii")
    assert '<div class="bad"><dt>Failed</dt><dd>1</dd>' in text
    assert "<td>broken.mp4</td><td>probe</td>" in text


def test_a_sample_that_cannot_be_read_says_why(root, tmp_path):
    dataset = ShardDataset(root, "train")
    (shard,) = (root / "train").glob("*000000.tar")
    whole = shard.read_bytes()
    try:
        shard.write_bytes(b"\0" * len(whole))
        write_dataset_page(dataset, tmp_path / "set.html")
    finally:
        shard.write_bytes(whole)
    text = (tmp_path / "set.html").read_text("ascii")
    assert text.count('<div class="without">') == dataset.manifest.shards[0].num_samples


def decode(address, colours="RGB"):
    kind, _, content = address.partition(",")
    assert kind == "data:image/jpeg;base64"
    return simplejpeg.decode_jpeg(base64.b64decode(content), colorspace=colours)


def sha256(text):
    return base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
