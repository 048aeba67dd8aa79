"""Policies by name: the operations, amounts and odds that the papers' code has."""

import math
from collections import Counter

import numpy as np
import pytest

from gopstream.shards.loading.appearance import APPEARANCE_OPS
from gopstream.shards.loading.augment_policy import (
    OPERATIONS,
    POLICIES,
    draw_steps,
    num_draws,
    parse_policy,
)
from gopstream.shards.loading.geometry import GEOMETRIC_OPS


def drawn(name, times=2000, seed=0):
    policy, rng = parse_policy(name), np.random.default_rng(seed)
    return [draw_steps(policy, rng.random(num_draws(policy))) for _ in range(times)]


def test_every_published_operation_is_one_that_can_be_applied():
    actions = {action for action, _ in OPERATIONS.values()}
    assert actions <= set(APPEARANCE_OPS) | set(GEOMETRIC_OPS)
    assert set(GEOMETRIC_OPS) <= actions


@pytest.mark.parametrize(
    ("name", "magnitude", "expected"),
    [
        # timm and MViT: amount at a magnitude of 10, with its sign where it has one.
        ("Rotate", 7, {-21.0, 21.0}),
        ("ShearX", 7, {-0.21, 0.21}),
        ("ShearY", 10, {-0.3, 0.3}),
        ("TranslateXRel", 10, {-0.45, 0.45}),
        ("TranslateYRel", 4, {-0.18, 0.18}),
        ("Posterize", 7, {2.0}),
        ("PosterizeIncreasing", 7, {2.0}),
        ("PosterizeIncreasing", 10, {0.0}),
        ("PosterizeOriginal", 8, {7.0}),
        ("Solarize", 7, {179.0}),
        ("SolarizeIncreasing", 7, {77.0}),
        ("SolarizeAdd", 7, {77.0}),
        ("Color", 7, {1.36}),
        ("Contrast", 0, {0.1}),
        ("Brightness", 10, {1.9}),
        ("ColorIncreasing", 7, {0.37, 1.63}),
        ("ContrastIncreasing", 10, {0.1, 1.9}),
        ("BrightnessIncreasing", 2, {0.82, 1.18}),
        ("SharpnessIncreasing", 5, {0.55, 1.45}),
        ("AutoContrast", 9, {0.0}),
        # imgaug: 17.19 degrees are a shear of 0.309.
        ("CentredShearX", 10, {-0.309, 0.309}),
        ("TranslateXFifth", 9, {-0.18, 0.18}),
        ("Cutout", 9, {0.18}),
    ],
)
def test_an_operation_has_its_published_amount(name, magnitude, expected):
    amount = OPERATIONS[name][1]
    got = {round(amount(magnitude / 10, sign), 3) for sign in (1.0, -1.0)}
    assert got == expected


def test_randaugment_draws_each_operation_evenly_and_skips_half():
    steps = drawn("rand-m7-n4-mstd0.5-inc1")
    counts = Counter(step.action for row in steps for step in row)
    assert len(counts) == 15
    assert abs(np.mean([len(row) for row in steps]) - 2.0) < 0.1
    assert max(counts.values()) < 1.5 * min(counts.values())


def test_randaugment_spreads_its_magnitude_and_keeps_it_within_limits():
    def degrees(name):
        rows = drawn(name, 6000)
        return np.array([s.amount for row in rows for s in row if s.action == "rotate"])

    plain = degrees("rand-m7-n2")
    assert {round(value, 6) for value in plain} == {-21.0, 21.0}
    assert abs((plain > 0).mean() - 0.5) < 0.1
    spread = np.abs(degrees("rand-m7-n2-mstd0.5"))
    assert abs(spread.mean() - 21.0) < 0.3
    assert abs(spread.std() - 1.5) < 0.2
    assert np.abs(degrees("rand-m9-n2-mstd2")).max() == pytest.approx(30.0)
    assert np.abs(degrees("rand-m14-n2-mmax12")).max() == pytest.approx(36.0)
    even = np.abs(degrees("rand-m10-n2-mstd101"))
    assert even.min() < 2.0
    assert abs(even.mean() - 15.0) < 1.5


def test_the_keys_of_randaugment_mean_what_timm_says():
    policy = parse_policy("rand")
    assert (policy.layers, policy.spread, policy.limit, policy.fill) == (2, 0.0, 10.0, 128)
    assert {(c.probability, c.magnitude) for c in policy.pool} == {(0.5, 10.0)}
    policy = parse_policy("rand-m9-n3-p0.8-mstd0.5-mmax20-inc1")
    assert (policy.layers, policy.spread, policy.limit) == (3, 0.5, 20.0)
    assert {(c.probability, c.magnitude) for c in policy.pool} == {(0.8, 9.0)}
    names = {choice.name for choice in policy.pool}
    assert {"ColorIncreasing", "SolarizeIncreasing", "SolarizeAdd", "Rotate"} <= names
    assert not {"Color", "Solarize", "Posterize"} & names
    assert parse_policy("rand-inc0") == parse_policy("rand")
    assert parse_policy("rand-mstdinf").spread == math.inf


@pytest.mark.parametrize("name", ["original", "originalr", "v0", "v0r"])
def test_autoaugment_draws_one_of_25_pairs_with_its_odds(name):
    policy = parse_policy(name)
    assert len(policy.sub_policies) == 25
    assert {len(pair) for pair in policy.sub_policies} == {2}
    names = {choice.name for pair in policy.sub_policies for choice in pair}
    assert names <= set(OPERATIONS)
    expected = np.mean([sum(c.probability for c in pair) for pair in policy.sub_policies])
    assert abs(np.mean([len(row) for row in drawn(name)]) - expected) < 0.06
    posterize = {choice for choice in names if choice.startswith("Posterize")}
    assert (
        posterize
        == {
            "original": {"PosterizeOriginal"},
            "originalr": {"PosterizeIncreasing"},
            "v0": {"Posterize"},
            "v0r": {"PosterizeIncreasing"},
        }[name]
    )


def test_autoaugment_applies_a_pair_in_its_order():
    """The paper's first ImageNet sub-policy keeps 7 bits, then turns by 27 degrees."""
    policy = parse_policy("original")
    draws = np.zeros(num_draws(policy))
    assert [(step.action, step.amount) for step in draw_steps(policy, draws)] == [
        ("posterize", 7.0),
        ("rotate", 27.0),
    ]
    draws[0] = 0.999
    assert [step.action for step in draw_steps(policy, draws)] == ["equalize", "equalize"]


def test_imgaug_applies_two_different_operations_in_the_order_of_its_list():
    order = [OPERATIONS[choice.name][0] for choice in parse_policy("imgaug").pool]
    rows = drawn("imgaug")
    assert {len(row) for row in rows} == {2}
    places = np.array([[order.index(step.action) for step in row] for row in rows])
    assert (places[:, 0] < places[:, 1]).all()
    assert len(set(map(tuple, places))) == 15 * 14 / 2
    assert parse_policy("imgaug").fill == 0
    amounts = {(s.action, round(s.amount, 3)) for row in rows for s in row}
    assert {
        ("solarize", 230.0),
        ("posterize", 3.0),
        ("saturation", 1.72),
        ("rotate", -27.0),
    } <= amounts


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("rnd-m9", r"no policy 'rnd' \(did you mean 'rand'\?\)"),
        ("orginal", r"did you mean 'original'"),
        ("rand-std0.5", r"rand has no key 'std' \(did you mean 'mstd'\?\); there are: m, n, p"),
        ("rand-m", "expected a key and a number, such as mstd0.5, got 'm'"),
        ("rand-w0", "rand has no key 'w'"),
        ("original-m9", "original has no key 'm'.*there are: mstd"),
        ("imgaug-m9", "imgaug has no key 'm'.*there are: none"),
        ("rand--m9", "got ''"),
    ],
)
def test_an_unknown_word_is_refused_with_the_nearest(name, message):
    with pytest.raises(ValueError, match=message):
        parse_policy(name)


def test_the_numbers_a_policy_takes_are_fixed():
    assert {name: num_draws(parse_policy(name)) for name in POLICIES} == {
        "rand": 13,
        "original": 13,
        "originalr": 13,
        "v0": 13,
        "v0r": 13,
        "imgaug": 13,
    }
    assert num_draws(parse_policy("rand-n4")) == 25
