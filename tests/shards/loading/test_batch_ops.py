"""Whole batches: normalisation, Mixup and CutMix, against float64 arithmetic by hand."""

import numpy as np
import pytest
import torch

from gopstream.shards.loading.batch_ops import (
    Mix,
    MixSpec,
    draw_mix,
    mix_clips,
    mix_generator,
    normalise,
    soft_labels,
)
from gopstream.shards.loading.geometry import Box
from gopstream.shards.loading.order import draw_generator

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
BOTH = MixSpec(mixup=0.8, cutmix=1.0)


def batch(number=3, size=8, grid=4):
    rng = np.random.default_rng(0)
    frames = torch.from_numpy(rng.normal(size=(number, 3, 2, size, size)))
    motion = torch.from_numpy(rng.normal(size=(number, 5, 2, 2, grid, grid)))
    valid = torch.from_numpy(rng.random((number, 5, 2, grid, grid)) < 0.5)
    return frames, motion, valid


@pytest.mark.parametrize(("dtype", "error"), [(torch.float32, 1e-6), (torch.bfloat16, 2**-8)])
def test_levels_become_normal_values(dtype, error):
    levels = torch.arange(256, dtype=torch.uint8).view(1, 1, 1, 16, 16).expand(2, 3, 2, 16, 16)
    got = normalise(levels, mean=MEAN, std=STD, dtype=dtype)
    assert got.dtype == dtype
    for channel in range(3):
        expected = (np.arange(256.0) / 255 - MEAN[channel]) / STD[channel]
        values = got[1, channel, 1].double().numpy().ravel()
        np.testing.assert_allclose(values, expected, rtol=error, atol=1e-6)


def test_normalisation_keeps_the_memory_order_of_the_loader():
    frames = torch.zeros(2, 4, 8, 8, 3, dtype=torch.uint8).permute(0, 4, 1, 2, 3)
    got = normalise(frames, mean=MEAN, std=STD)
    assert got.is_contiguous(memory_format=torch.channels_last_3d)
    assert frames.dtype == torch.uint8
    assert not frames.any()


def test_mixup_adds_frames_and_motion_by_their_shares():
    frames, motion, valid = batch()
    before = [plane.clone() for plane in (frames, motion, valid)]
    mix_clips(Mix(0.7), frames, motion=motion, valid=valid)
    for clip, partner in ((0, 2), (1, 1), (2, 0)):
        for plane, old in ((frames, before[0]), (motion, before[1])):
            expected = 0.7 * old[clip] + 0.3 * old[partner]
            torch.testing.assert_close(plane[clip], expected, rtol=1e-14, atol=1e-14)
        assert torch.equal(valid[clip], before[2][clip] | before[2][partner])


def test_cutmix_pastes_the_same_box_of_pixels_and_of_cells():
    frames, motion, valid = batch()
    before = [plane.clone() for plane in (frames, motion, valid)]
    mix_clips(Mix(0.8125, Box(2, 4, 6, 2)), frames, motion=motion, valid=valid)
    inside = {8: np.zeros((8, 8), bool), 4: np.zeros((4, 4), bool)}
    inside[8][4:6, 2:8] = True
    inside[4][2:3, 1:4] = True
    for plane, old in zip((frames, motion, valid), before, strict=True):
        box = torch.from_numpy(inside[plane.shape[-1]])
        assert torch.equal(plane, torch.where(box, old.flip(0), old))
        assert not torch.equal(plane, old)


def test_a_batch_that_is_not_mixed_stays():
    frames, motion, valid = batch()
    before = frames.clone()
    mix_clips(Mix(), frames, motion=motion, valid=valid)
    assert torch.equal(frames, before)


def test_a_box_off_the_cells_is_refused():
    frames, motion, _ = batch()
    with pytest.raises(ValueError, match="from pixel 4 to 7 of 8 .* cells of a field of 4.*cell_p"):
        mix_clips(Mix(0.9, Box(2, 4, 2, 3)), frames, motion=motion)


def test_labels_are_smoothed_and_mixed_as_their_clips():
    labels = torch.tensor([2, 0, 1])
    plain = soft_labels(labels, num_classes=4)
    assert torch.equal(plain, torch.eye(4)[labels])
    smooth = soft_labels(labels, num_classes=4, label_smoothing=0.1)
    np.testing.assert_allclose(smooth[0], [0.025, 0.025, 0.925, 0.025], rtol=1e-6)
    mixed = soft_labels(labels, num_classes=4, label_smoothing=0.1, mix=Mix(0.7))
    np.testing.assert_allclose(
        mixed,
        [[0.025, 0.295, 0.655, 0.025], [0.925, 0.025, 0.025, 0.025], [0.025, 0.655, 0.295, 0.025]],
        rtol=1e-5,
    )
    np.testing.assert_allclose(mixed.sum(dim=1), 1.0, rtol=1e-6)


def draws(spec, number=2000, **options):
    rng = np.random.default_rng(0)
    sizes = {"frame_size": (224, 224), **options}
    return [draw_mix(spec, rng=rng, **sizes) for _ in range(number)]


def test_a_batch_is_mixed_one_way_with_the_odds_asked_for():
    mixes = draws(MixSpec(mixup=0.8, cutmix=1.0, switch=0.3, probability=0.6))
    kinds = [mix.share < 1 and ("cutmix" if mix.box else "mixup") for mix in mixes]
    assert abs(kinds.count("cutmix") / 2000 - 0.18) < 0.03
    assert abs(kinds.count("mixup") / 2000 - 0.42) < 0.03
    assert {bool(mix.box) for mix in draws(MixSpec(mixup=0.2))} == {False}
    assert {bool(mix.box) for mix in draws(MixSpec(cutmix=0.2), 20)} == {True}
    assert set(draws(MixSpec())) == {Mix()}


def test_mixup_shares_follow_their_beta_distribution():
    for alpha in (0.8, 5.0):
        shares = np.array([mix.share for mix in draws(MixSpec(mixup=alpha))])
        assert abs(shares.mean() - 0.5) < 0.02
        assert shares.var() == pytest.approx(1 / (4 * (2 * alpha + 1)), rel=0.1)


@pytest.mark.parametrize("cell_pixels", [1, 4, 16])
def test_a_pasted_box_lies_on_cells_and_its_area_is_the_partners_share(cell_pixels):
    mixes = draws(MixSpec(cutmix=1.0), 400, frame_size=(224, 192), cell_pixels=cell_pixels)
    for mix in mixes:
        left, top, width, height = mix.box
        assert left >= 0 <= top
        assert left + width <= 224
        assert top + height <= 192
        assert not any(value % cell_pixels for value in mix.box)
        assert mix.share == pytest.approx(1 - width * height / (224 * 192))
    # Cut at the borders, boxes are smaller than the drawn share of a half.
    assert 0.55 < np.mean([mix.share for mix in mixes]) < 0.75
    assert max(mix.box.left + mix.box.width for mix in mixes) == 224
    assert min(mix.box.top for mix in mixes) == 0


def test_frames_that_do_not_divide_into_cells_are_refused():
    with pytest.raises(ValueError, match="224x224 do not divide into motion cells of 5 pixels"):
        draw_mix(BOTH, frame_size=(224, 224), cell_pixels=5, rng=np.random.default_rng(0))


def test_a_mix_depends_on_seed_epoch_and_position_alone():
    def drawn(**where):
        return draw_mix(BOTH, frame_size=(224, 224), rng=mix_generator(**where))

    here = drawn(seed=3, epoch=2, position=640)
    assert drawn(seed=3, epoch=2, position=640) == here
    others = [drawn(seed=3, epoch=2, position=641), drawn(seed=3, epoch=1, position=640)]
    assert here not in others
    assert drawn(seed=4, epoch=2, position=640) != here
    clip = draw_generator(seed=3, epoch=2, position=640).random(50)
    assert not set(clip) & set(mix_generator(seed=3, epoch=2, position=640).random(50))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"mixup": -0.1}, "mixup must not be negative"),
        ({"cutmix": -1.0}, "cutmix must not be negative"),
        ({"switch": 1.2}, "switch must be from 0 to 1, got 1.2"),
        ({"label_smoothing": -0.1}, "label_smoothing must be from 0 to 1"),
    ],
)
def test_what_cannot_be_meant_is_refused(options, message):
    with pytest.raises(ValueError, match=message):
        MixSpec(**options)
