import numpy as np
import pytest
from PIL import Image

from gopstream.jobs.inspection.contact_sheet import write_contact_sheet
from gopstream.pipeline.options import ExtractionOptions
from gopstream.pipeline.transcode import CanonicalFormat
from gopstream.shards.reader import ShardDataset
from inspection_cases import make_video, shard_here


@pytest.mark.parametrize("planes", [("frames", "motion", "residual"), ("frames", "motion")])
def test_sheet(tmp_path, planes):
    videos, root = tmp_path / "train", tmp_path / "set"
    for name in "ab":
        make_video(videos / name, name=name)
    shard_here(
        videos,
        root,
        options=ExtractionOptions(canonical=CanonicalFormat(short_side=64), planes=planes),
    )
    path = tmp_path / "sheet.png"
    write_contact_sheet(ShardDataset(root, "train"), path, samples=[0, 1])
    with Image.open(path) as sheet:
        assert sheet.format == "PNG"
        columns = 3 + ("residual" in planes)
        assert sheet.width == columns * 192 + (columns - 1) * 8
        assert 2 * 192 < sheet.height < 2 * 192 + 100
        pixels = np.asarray(sheet)
    assert pixels[20:212, :192].std() > 10  # the first frame is no flat area
