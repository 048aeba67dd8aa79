import numpy as np
import pytest
from PIL import Image

from gopstream.jobs.demo_videos import write_demo_videos
from gopstream.jobs.inspection.contact_sheet import write_contact_sheet
from gopstream.jobs.preprocess import shard_folder
from gopstream.jobs.sharding_job import PlanChoice
from gopstream.pipeline.options import ExtractionOptions
from gopstream.pipeline.transcode import CanonicalFormat
from gopstream.shards.reader import ShardDataset


@pytest.mark.parametrize("planes", [("frames", "motion", "residual"), ("frames", "motion")])
def test_sheet(tmp_path, planes):
    settings = {"videos_per_class": 1, "seed": 1, "num_frames": 24, "size": 64}
    write_demo_videos(tmp_path, split="train", **settings)
    videos, root = tmp_path / "train", tmp_path / "set"
    shard_folder(
        videos,
        root,
        options=ExtractionOptions(canonical=CanonicalFormat(short_side=64), planes=planes),
        choice=PlanChoice(limit=2),
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
