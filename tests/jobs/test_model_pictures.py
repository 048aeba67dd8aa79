"""Which pictures a network has, and that they show the arrays of its family's functions."""

import numpy as np
import pytest
import torch

from gopstream.jobs.errors import UserError
from gopstream.jobs.inspection.model_pictures import Look, make_pictures
from gopstream.jobs.trained_run import FedClip
from gopstream.models.dvt import dvt_tiny
from gopstream.models.dvt.sampled_points import sampled_points
from gopstream.models.pst import pst_tiny
from gopstream.models.sifa import sifa_net_tiny, sifa_swin_tiny
from gopstream.models.sifa.attention_maps import attention_maps
from gopstream.models.video_focalnet import video_focalnet_tiny


def make_clip(**inputs):
    generator = torch.Generator().manual_seed(0)
    pictures = torch.randint(0, 256, (8, 32, 32, 3), dtype=torch.uint8, generator=generator)
    frames = pictures.permute(3, 0, 1, 2)[None].float() / 255 - 0.5
    return FedClip("sample-7", "walk", pictures, frames, inputs, 1, "run", 0.75)


def make_network(make, **options):
    torch.manual_seed(0)
    return make(3, **options).eval()


def pictures_of(network, clip=None, **look):
    pictures = make_pictures(network, make_clip() if clip is None else clip, look=Look(**look))
    return {picture.name: picture for picture in pictures}


@pytest.mark.parametrize(
    ("make", "options", "names"),
    [
        (dvt_tiny, {}, ["grad_cam", "sampled_points"]),
        (
            dvt_tiny,
            {"attention": "both"},
            ["grad_cam", "sampled_points", "sampled_points_of_scales"],
        ),
        (dvt_tiny, {"attention": "multi_scale"}, ["grad_cam", "sampled_points_of_scales"]),
        (sifa_net_tiny, {}, ["grad_cam", "motion_saliency", "attention_points"]),
        (
            sifa_net_tiny,
            {"style": "released"},
            ["grad_cam", "motion_saliency", "attention_points"],
        ),
        (sifa_net_tiny, {"variant": "none"}, ["grad_cam"]),
        (sifa_swin_tiny, {}, ["grad_cam", "motion_saliency", "attention_points"]),
        (video_focalnet_tiny, {}, ["grad_cam", "modulators_in_space", "modulators_in_time"]),
        (video_focalnet_tiny, {"design": "spatial"}, ["grad_cam", "modulators_in_space"]),
        (pst_tiny, {}, ["grad_cam"]),
    ],
)
def test_each_family_has_the_pictures_of_its_paper(make, options, names):
    pictures = pictures_of(make_network(make, **options))
    assert list(pictures) == names
    for picture in pictures.values():
        assert picture.image.mode == "RGB"
        assert np.asarray(picture.image).std() > 10


def test_points_of_dvt_are_those_of_the_function():
    motion = 4 * torch.randn(1, 4, 2, 4, 8, 8, generator=torch.Generator().manual_seed(1))
    clip, network = make_clip(motion=motion), make_network(dvt_tiny)
    facts = pictures_of(network, clip, query=(3.0, 20.0), frame=3, block=0)["sampled_points"].facts
    expected = sampled_points(
        network,
        clip.frames,
        block=0,
        query_frame=3,
        queries=torch.tensor([[3.0, 20.0]]),
        inputs={"motion": motion},
    )
    assert facts["places"] == expected.places[0, 0].double().tolist()
    assert facts["weights"] == expected.weights[0, 0].double().tolist()
    assert (facts["query"], facts["query_frame"], facts["frames"]) == ([2, 22], 2, [0, 2])


def test_defaults_are_the_last_block_and_the_middle_of_the_clip():
    facts = pictures_of(make_network(dvt_tiny))["sampled_points"].facts
    assert (facts["block"], facts["query"], facts["query_frame"]) == (1, [20, 20], 4)
    facts = pictures_of(make_network(sifa_net_tiny))["attention_points"].facts
    assert (facts["block"], facts["query"], facts["query_frame"]) == (5, [16, 16], 3)
    facts = pictures_of(make_network(video_focalnet_tiny))["modulators_in_time"].facts
    assert facts["block"] == 3


def test_taps_of_sifa_are_those_of_the_function():
    network, clip = make_network(sifa_net_tiny, variant="bidirectional", last="zero"), make_clip()
    facts = pictures_of(network, clip, query=(9.0, 30.0), frame=5, block=0)[
        "attention_points"
    ].facts
    queries = torch.tensor([[9.0, 30.0]])
    for neighbour, direction, frame, pair in zip(
        facts["neighbours"], ("next", "previous"), (6, 4), (5, 4), strict=True
    ):
        expected = attention_maps(
            network, clip.frames, queries=queries, block=0, direction=direction
        )
        assert neighbour["frame"] == frame
        assert neighbour["places"] == expected.places[0, pair, 0].double().tolist()
        assert neighbour["weights"] == expected.weights[0, pair, 0].double().tolist()


def test_the_first_frame_has_no_previous_one_and_is_shown_without():
    network = make_network(sifa_net_tiny, variant="bidirectional", last="zero")
    facts = pictures_of(network, frame=0)["attention_points"].facts
    assert [neighbour["frame"] for neighbour in facts["neighbours"]] == [1]


@pytest.mark.parametrize("last", ["self", "zero"])
def test_saliency_is_shown_of_pairs_of_two_frames(last):
    facts = pictures_of(make_network(sifa_net_tiny, last=last), block=0)["motion_saliency"].facts
    assert facts["frames"] == [1, 2, 3, 4, 5, 6, 7]
    assert np.array(facts["saliency"]).shape == (7, 4, 4)


@pytest.mark.parametrize(
    ("make", "look", "message"),
    [
        (dvt_tiny, {"query": (32.0, 5.0)}, "--query must lie in the clip's frames of 32 x 32 pix"),
        (dvt_tiny, {"query": (float("nan"), 5.0)}, "got nan,5"),
        (dvt_tiny, {"frame": 8}, "--frame must be 0 to 7, got 8"),
        (dvt_tiny, {"block": 2}, "--block must be 0 to 1, got 2"),
        (sifa_net_tiny, {"block": 6}, "block must be 0 to 5, the blocks with attention between"),
        (video_focalnet_tiny, {"block": -1}, "--block must be 0 to 3, got -1"),
        (video_focalnet_tiny, {"query": (1.0, 1.0)}, "--query is for models that attend points"),
        (pst_tiny, {"frame": 1}, "--frame is for models that attend points: DVT and SIFA"),
        (pst_tiny, {"block": 1}, "--block is for .* of this model there is Grad-CAM alone"),
    ],
)
def test_what_is_not_there_is_refused_by_option(make, look, message):
    with pytest.raises(UserError, match=message):
        pictures_of(make_network(make), **look)


def test_a_frame_that_attends_nothing_is_refused():
    with pytest.raises(UserError, match="--frame 7 has no next frame that it attends"):
        pictures_of(make_network(sifa_net_tiny, last="zero"), frame=7)
