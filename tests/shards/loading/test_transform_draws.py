"""What is drawn for a clip: how often, from how many numbers, and the same for ever."""

import dataclasses

import numpy as np
import pytest
from PIL import Image

from gopstream.shards.errors import ShardError
from gopstream.shards.loading.appearance import AppearanceOp, Erasure, apply_ops
from gopstream.shards.loading.augment_policy import draw_steps, num_draws, parse_policy
from gopstream.shards.loading.geometry import GEOMETRIC_OPS, Box, Geometry
from gopstream.shards.loading.transform import (
    ClipTransform,
    TransformSpec,
    draw_transform,
    transform_frames,
    view_transform,
)
from moving_clips import FRAME, grown, moving_clip


def philox(key):
    return np.random.Generator(np.random.Philox(key=key))


def test_the_numbers_taken_do_not_depend_on_what_was_drawn():
    """Else a clip's later draws would change with its earlier ones."""
    spec = TransformSpec(
        size=32, flip=0.5, policy="rand-m7-n4-mstd0.5-inc1", jitter=0.5, brightness=0.4, hue=0.1,
        greyscale=0.5, blur=0.5, erase=0.5, jitter_per_frame=True, erase_per_frame=True,
        crop_scale=(0.05, 1.0), crop_ratio=(0.1, 10.0),
    )  # fmt: skip
    policies = ("", "rand-m7-n4-mstd0.5-inc1", "original-mstd0.5", "imgaug")
    for policy in policies:
        drawn = dataclasses.replace(spec, policy=policy)
        nexts = set()
        for skipped in range(30):
            rng = philox(7)
            start = philox(7)
            rng.random(skipped)
            draw_transform(drawn, frame_size=FRAME, num_frames=4, rng=rng)
            following = rng.random()
            ahead = start.random(2000)[skipped:]
            nexts.add(int(np.flatnonzero(ahead == following)[0]))
        assert len(nexts) == 1


def test_a_seed_gives_the_same_transform_for_ever():
    """Runs are continued with later versions: what a seed draws must not change unnoticed."""
    spec = TransformSpec(
        flip=0.5, policy="rand-m7-n4-mstd0.5-inc1", jitter=1.0, brightness=0.4, erase=1.0
    )
    rng = philox(11)
    drawn = draw_transform(spec, frame_size=(340, 256), num_frames=16, rng=rng)
    centre = (0.390541082014189, 0.6568608661998754)
    assert drawn == ClipTransform(
        Geometry(Box(129, 82, 138, 124), 224, flip=True),
        ops=(
            (
                AppearanceOp("autocontrast", 0.0, centre),
                AppearanceOp("brightness", 0.7965454808098619),
            ),
        ),
        erasures=(Erasure(Box(16, 38, 204, 81), "noise", 8805376357106360),),
    )


def test_the_options_that_are_drawn_happen_as_often_as_asked():
    spec = TransformSpec(size=32, flip=0.3, jitter=0.6, brightness=0.4, greyscale=0.2, erase=0.25)
    rng = np.random.default_rng(0)
    drawn = [draw_transform(spec, frame_size=FRAME, num_frames=1, rng=rng) for _ in range(1000)]
    names = [{op.name for row in transform.ops for op in row} for transform in drawn]
    for share, happened in (
        (0.3, [transform.geometry.flip for transform in drawn]),
        (0.6, ["brightness" in row for row in names]),
        (0.2, ["greyscale" in row for row in names]),
        (0.25, [bool(transform.erasures) for transform in drawn]),
    ):
        assert abs(np.mean(happened) - share) < 0.05


def test_jitter_and_erasing_are_of_the_clip_or_of_each_frame_as_asked():
    once = TransformSpec(size=32, jitter=1.0, hue=0.1, blur=1.0, erase=1.0)
    each = dataclasses.replace(once, jitter_per_frame=True, erase_per_frame=True)
    rng = np.random.default_rng(0)
    one, many = (
        draw_transform(spec, frame_size=FRAME, num_frames=6, rng=rng) for spec in (once, each)
    )
    assert len(one.ops) == len(one.erasures) == 1
    assert len({row[0] for row in many.ops}) == len(set(many.erasures)) == 6
    assert len({row[1] for row in many.ops}) == 1, "blur is of the clip"


def test_a_label_that_names_a_direction_is_not_mirrored():
    spec = TransformSpec(size=32, flip=1.0, keep_direction=(3, 4))
    flips = [
        draw_transform(
            spec, frame_size=FRAME, num_frames=1, rng=np.random.default_rng(0), label=label
        ).geometry.flip
        for label in (2, 3, 4, None)
    ]
    assert flips == [True, False, False, True]


def test_views_of_papers_lie_where_the_papers_have_them():
    def boxes(size, short_side, frame_size, num_crops):
        spec = TransformSpec(size=size, view_short_side=short_side)
        return [
            tuple(
                view_transform(
                    spec, frame_size=frame_size, crop=i, num_crops=num_crops
                ).geometry.box
            )
            for i in range(num_crops)
        ]

    assert boxes(256, 0, (340, 256), 3) == [(0, 0, 256, 256), (42, 0, 256, 256), (84, 0, 256, 256)]
    # A centre crop of 224 of the frame as it is; three crops after a resize to 224.
    assert boxes(224, 256, (340, 256), 1) == [(58, 16, 224, 224)]
    assert boxes(224, 0, (340, 256), 3) == [(0, 0, 256, 256), (42, 0, 256, 256), (84, 0, 256, 256)]
    assert boxes(224, 256, (256, 340), 3) == [
        (16, 0, 224, 224),
        (16, 58, 224, 224),
        (16, 116, 224, 224),
    ]
    assert boxes(224, 256, (640, 512), 1) == [(96, 32, 448, 448)]


def test_a_crop_larger_than_the_frame_is_refused_with_what_to_do():
    spec = TransformSpec(size=100, crop="random")
    with pytest.raises(ShardError, match=r"100 pixels does not fit into frames of 128x96.*short"):
        draw_transform(spec, frame_size=FRAME, num_frames=1, rng=np.random.default_rng(0))


def pillow_steps(picture, steps):
    """Apply the geometric steps one after the other, as the published policies do."""
    for step in steps:
        width, height = picture.size
        maps = {
            "shear_x": (1, step.amount, 0, 0, 1, 0),
            "shear_y": (1, 0, 0, step.amount, 1, 0),
            "translate_x": (1, 0, step.amount * width, 0, 1, 0),
            "translate_y": (1, 0, 0, 0, 1, step.amount * height),
        }
        how = Image.Resampling.BILINEAR
        if step.action == "rotate":
            picture = picture.rotate(step.amount, how, fillcolor=(0, 0, 0))
        elif step.action in maps:
            picture = picture.transform(picture.size, 0, maps[step.action], how)
    return picture


@pytest.mark.parametrize("place", ["crop", "frame"])
def test_a_policy_moves_pixels_as_its_steps_would_one_by_one(place):
    frame = moving_clip("translating")[0][0]
    frame = np.maximum(frame, 20)
    spec = TransformSpec(size=64, crop="random", flip=1.0, policy="rand-m5-n3-p1", policy_on=place)
    compared = 0
    for seed in range(40):
        drawn = draw_transform(spec, frame_size=FRAME, num_frames=1, rng=philox(seed))
        policy, rng = parse_policy(spec.policy), philox(seed)
        rng.random(4)  # the crop's and the flip's
        steps = draw_steps(policy, rng.random(num_draws(policy)))
        if sum(step.action in GEOMETRIC_OPS for step in steps) < 2:
            continue
        left, top, width, height = drawn.geometry.box
        picture = Image.fromarray(frame)
        if place == "frame":
            picture = pillow_steps(picture, steps)
        picture = picture.crop((left, top, left + width, top + height))
        picture = picture.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
        if place == "crop":
            picture = pillow_steps(picture, steps)
        expected = np.asarray(picture).astype(int)
        [got] = transform_frames(
            frame.reshape(1, *frame.shape), ClipTransform(drawn.geometry, fill=0)
        )
        # What Pillow's steps lost at the borders on the way is black; the one map still has it.
        kept = ~grown((expected < 15).any(axis=-1), 3)
        assert np.abs(got - expected)[kept].max(initial=0) <= 6
        compared += kept.mean()
    assert compared > 3


def test_what_comes_into_view_is_filled_as_the_policy_says():
    def fill(policy):
        spec = TransformSpec(size=64, policy=policy)
        return draw_transform(spec, frame_size=FRAME, num_frames=1, rng=philox(0)).fill

    assert (fill("rand"), fill("original"), fill("imgaug")) == (128, 128, 0)


def test_a_policy_on_the_frame_changes_it_before_the_crop():
    """Equalising a whole frame and equalising its crop give other levels."""
    spec = TransformSpec(size=64, crop="centre", view_short_side=96, policy="rand-n4-p1")
    frame = np.random.default_rng(0).integers(0, 90, (96, 128, 3), dtype=np.uint8)
    frame[:8] = 255
    changed = 0
    for seed in range(6):
        on_crop, on_frame = (
            draw_transform(
                dataclasses.replace(spec, policy_on=place),
                frame_size=FRAME,
                num_frames=1,
                rng=philox(seed),
            )
            for place in ("crop", "frame")
        )
        assert on_crop.ops == ((on_frame.frame_ops,) if on_frame.frame_ops else ())
        assert not on_crop.frame_ops
        assert not on_frame.ops
        geometry = Geometry(Box(32, 16, 64, 64), 64)
        placed = dataclasses.replace(on_frame, geometry=geometry)
        [got] = transform_frames(frame.reshape(1, *frame.shape), placed)
        expected = apply_ops(frame, on_frame.frame_ops)[16:80, 32:96]
        np.testing.assert_array_equal(got, expected)
        changed += (got != frame[16:80, 32:96]).any()
    assert changed > 3
