"""Evaluation equals a plain loop over views whose frames and corners are written down here."""

import io
import json

import numpy as np
import pytest
import torch
from PIL import Image

from gopstream.jobs.evaluate import evaluate
from gopstream.jobs.network import input_contract
from gopstream.jobs.recipe import load_recipe
from gopstream.shards import ShardDataset

LARGE = ("transform.size=64", "test.short_side=64")
SMALL = ("transform.size=32", "test.short_side=64")

# Of a video of 30 frames: the frames of each clip, and (left, top) of each crop of 96x64.
# PST on Kinetics: 30 - 4 * 3 + 1 = 19 starts; clip k begins at (k + 1/2) 19 / 4. Short side and
# crop are alike.
PST_KINETICS = (
    "pst_tiny",
    ("clip.num_frames=4", "clip.stride=3", "clip.sampling=dense_mmaction", *LARGE),
    "4x3",
    [[2, 5, 8, 11], [7, 10, 13, 16], [11, 14, 17, 20], [16, 19, 22, 25]],
    [(0, 0), (16, 0), (32, 0)],
)
# SIFA on Kinetics: clip k begins at (30 - 4 * 3) k / 10, rounded down.
SIFA_KINETICS = (
    "sifa_net_tiny",
    (
        "clip.num_frames=4",
        "clip.stride=3",
        "clip.sampling=dense_mmaction",
        "clip.view_rule=starts",
        *SMALL,
    ),
    "10x3",
    [[first + 3 * i for i in range(4)] for first in (0, 1, 3, 5, 7, 9, 10, 12, 14, 16)],
    [(0, 16), (32, 16), (64, 16)],
)
# DVT on Kinetics: 30 - 8 * 2 = 14 is the last start; five clips are 14 // 4 = 3 apart, and the
# eight frames are spread over sixteen.
DVT_KINETICS = (
    "dvt_tiny",
    (
        "clip.num_frames=8",
        "clip.stride=2",
        "clip.sampling=dense_slowfast",
        "clip.view_rule=offset",
        "model.use_motion=false",
        *SMALL,
    ),
    "5x1",
    [[first + step for step in (0, 2, 4, 6, 8, 10, 12, 15)] for first in (0, 3, 6, 9, 12)],
    [(32, 16)],
)
# Video-FocalNet on Kinetics: clip k takes frame (i + (2 k + 1) / 8) 29 / 8 of part i.
FOCALNET_KINETICS = (
    "video_focalnet_tiny",
    ("clip.num_frames=8", "clip.stride=2", "clip.sampling=segment_mmaction", *SMALL),
    "4x3",
    [
        [0, 4, 7, 11, 14, 18, 22, 25],
        [1, 4, 8, 12, 15, 19, 23, 26],
        [2, 5, 9, 13, 16, 20, 24, 27],
        [3, 6, 10, 14, 17, 21, 24, 28],
    ],
    [(0, 16), (32, 16), (64, 16)],
)
# Something-Something: the middles of parts from round(i 29 / 8) to round((i + 1) 29 / 8).
SOMETHING = (
    "mvit_tiny",
    ("clip.num_frames=8", "clip.sampling=segment_slowfast", *SMALL),
    "1x3",
    [[2, 5, 9, 12, 16, 20, 23, 27]],
    [(0, 16), (32, 16), (64, 16)],
)
# As DVT's paper writes 1x5 crops and clips of one another: five crops of a clip. The clip is the
# middle one of 30 - 8 * 2 + 1 = 15 starts.
FIVE_CROPS = (
    "sifa_swin_tiny",
    ("clip.num_frames=8", "clip.stride=2", "clip.sampling=dense_mmaction", *SMALL),
    "1x5",
    [[7, 9, 11, 13, 15, 17, 19, 21]],
    [(0, 16), (16, 16), (32, 16), (48, 16), (64, 16)],
)
CASES = [PST_KINETICS, SIFA_KINETICS, DVT_KINETICS, FOCALNET_KINETICS, SOMETHING, FIVE_CROPS]


def decoded(dataset, sample, numbers):
    """Decode stored frames with Pillow: (T, H, W, 3)."""
    jpegs = dataset.read_jpegs(sample, np.array(numbers))
    return np.stack([np.asarray(Image.open(io.BytesIO(bytes(jpeg)))) for jpeg in jpegs])


def plain_probabilities(network, dataset, sample, *, contract, clips, corners, size, average):
    """Show a network one view after another, in float64."""
    total = 0.0
    for numbers in clips:
        frames = decoded(dataset, sample, numbers)
        for left, top in corners:
            crop = frames[:, top : top + size, left : left + size] / 255.0
            crop = (crop - np.array(contract.mean)) / np.array(contract.std)
            pixels = torch.from_numpy(crop).permute(3, 0, 1, 2)[None]
            with torch.no_grad():
                logits = network(pixels)[0]
            total = total + (logits.softmax(dim=0) if average == "probabilities" else logits)
    mean = total / (len(clips) * len(corners))
    return mean if average == "probabilities" else mean.softmax(dim=0)


@pytest.mark.parametrize(
    ("case", "average"),
    [*((case, "probabilities") for case in CASES), (PST_KINETICS, "logits"), (SOMETHING, "logits")],
    ids=lambda value: value if isinstance(value, str) else f"{value[0]}-{value[2]}",
)
def test_probabilities_are_those_of_a_plain_loop(root, make_checkpoint, tmp_path, case, average):
    name, overrides, views, clips, corners = case
    words = (
        f"model.name={name}",
        *overrides,
        f"test.views={views}",
        f"test.average={average}",
        "train.batch_size=7",  # divides no number of views
    )
    network = make_checkpoint(tmp_path / "run.pt", "dvt_tiny_demo", words).double()
    recipe = load_recipe("dvt_tiny_demo", words)
    evaluate(tmp_path / "run.pt", root, out=tmp_path / "out", predictions="jsonl")
    lines = (tmp_path / "out" / "predictions.jsonl").read_text().splitlines()
    dataset = ShardDataset(root, "val")
    assert [json.loads(line)["key"] for line in lines] == list(dataset.keys)
    for sample in (0, 3):
        expected = plain_probabilities(
            network,
            dataset,
            sample,
            contract=input_contract(recipe, network),
            clips=clips,
            corners=corners,
            size=recipe.transform.size,
            average=average,
        )
        row = json.loads(lines[sample])
        found = dict(zip(row["top5"], row["probabilities"], strict=True))
        named = [found[label] for label in dataset.classes]
        assert named == pytest.approx(expected.tolist(), abs=1e-6)
        assert max(named) - min(named) > 1e-3, "the network must tell classes apart"
