"""Pictures made of slices as their headers would be; few of these does x264 make."""

from dataclasses import replace

import pytest

from gopstream.pipeline.h264_pictures import PictureTally
from gopstream.pipeline.h264_slices import SliceHeader
from gopstream.pipeline.h264_syntax import PictureParameters, SequenceParameters

SPS = SequenceParameters(
    sps_id=0,
    profile_idc=77,
    constraint_flags=0,
    level_idc=30,
    chroma_format_idc=1,
    separate_colour_planes=False,
    bit_depth=8,
    lossless_allowed=False,
    frame_number_bits=4,
    order_count_type=0,
    order_count_bits=4,
    order_deltas_are_zero=False,
    max_reference_frames=1,
    frame_number_gaps_allowed=False,
    coded_size=(64, 64),
    display_rect=(0, 0, 64, 64),
    frames_only=True,
    macroblock_adaptive=False,
    max_reorder_frames=None,
    max_frame_buffering=None,
)
PPS = PictureParameters(0, 0, True, False, (1, 1), False, 0, True, True, False)
NO_SLICE = SliceHeader._make([0] * len(SliceHeader._fields))._replace(
    unit_kind=1, reference_idc=1, num_references_l0=1, deblocking_idc=1
)
IDR = {"unit_kind": 5, "kind": 2}
I_SLICE, P_SLICE, B_SLICE = {"kind": 2}, {"kind": 0}, {"kind": 1, "reference_idc": 0}


def tally(*slices, sps=SPS):
    pictures = PictureTally()
    for fields in slices:
        pictures.add(NO_SLICE._replace(**fields), sps=sps, pps=PPS)
    pictures.finish()
    return pictures


FIELDS = replace(SPS, frames_only=False)
TOP, BOTTOM = {"is_field": 1}, {"is_field": 1, "is_bottom": 1, "order_lsb": 1}


def test_two_fields_are_one_picture_of_the_first_ones_type():
    later = {**P_SLICE, "frame_number": 1, "order_lsb": 2}
    slices = [IDR | TOP, P_SLICE | BOTTOM, later | TOP, P_SLICE | BOTTOM | later]
    pictures = tally(*slices, sps=FIELDS)
    assert pictures.num_by_type == [1, 1, 0]
    assert pictures.num_idr == 1
    assert pictures.has_fields
    assert pictures.num_number_gaps == 0
    assert pictures.max_slices == 1


@pytest.mark.parametrize(
    "second",
    [
        P_SLICE | TOP | {"frame_number": 1, "order_lsb": 2},  # the same field again
        P_SLICE | BOTTOM | {"frame_number": 1},  # of another frame
        IDR | BOTTOM,
        {**P_SLICE, "frame_number": 1, "order_lsb": 2},  # a frame
    ],
)
def test_a_field_without_its_pair_is_a_picture(second):
    assert sum(tally(IDR | TOP, second, sps=FIELDS).num_by_type) == 2


def test_slices_in_any_order_are_one_picture():
    slices = [{**P_SLICE, "first_macroblock": first, "frame_number": 1} for first in (8, 0, 4)]
    pictures = tally(IDR, *slices)
    assert pictures.num_by_type == [1, 1, 0]
    assert pictures.max_slices == 3


def test_pictures_without_their_first_slice_are_told_apart():
    later = {**B_SLICE, "first_macroblock": 4, "frame_number": 1}
    pictures = tally(IDR, later | {"order_lsb": 2}, later | {"order_lsb": 4})
    assert pictures.num_by_type == [1, 0, 2]


def test_parameters_change_by_value():
    pictures = PictureTally()
    for number, sps in enumerate([SPS, replace(SPS), replace(SPS, level_idc=31), SPS]):
        header = NO_SLICE._replace(**P_SLICE | {"frame_number": number, "order_lsb": number})
        pictures.add(header, sps=sps, pps=PPS)
    assert pictures.num_parameter_changes == 2


def test_a_picture_has_the_highest_type_of_its_slices():
    mixed = [{**I_SLICE, "frame_number": 1}, {**P_SLICE, "frame_number": 1, "first_macroblock": 4}]
    assert tally(IDR, *mixed).num_by_type == [1, 1, 0]


def test_redundant_slices_are_passed_over():
    redundant = {**P_SLICE, "redundant_count": 1, "num_references_l0": 7}
    pictures = tally(IDR, redundant)
    assert (pictures.num_by_type, pictures.max_references_p) == ([1, 0, 0], 0)


def test_three_colour_planes_are_one_picture():
    planes = replace(SPS, separate_colour_planes=True)
    assert tally(IDR, IDR, IDR, sps=planes).num_by_type == [1, 0, 0]
    assert tally(IDR, IDR, IDR).num_by_type == [3, 0, 0]


@pytest.mark.parametrize(
    ("order_type", "third", "expected"),
    [
        (0, {**B_SLICE, "order_lsb": 10}, True),
        (0, {**B_SLICE, "order_lsb": 15}, False),
        (0, {**B_SLICE, "order_lsb": 2}, False),  # 18: the count has wrapped
        (1, B_SLICE, True),
        (1, P_SLICE, False),
        (2, P_SLICE, False),
    ],
)
def test_a_leading_picture_opens_a_gop(order_type, third, expected):
    first = [IDR, {**P_SLICE, "frame_number": 1, "order_lsb": 7}]
    i_picture = {**I_SLICE, "frame_number": 2, "order_lsb": 14}
    slices = [*first, i_picture, third | {"frame_number": 3}]
    sps = replace(SPS, order_count_type=order_type)
    pictures = tally(*slices, sps=sps)
    assert pictures.has_open_groups == expected
    assert pictures.num_number_gaps == 0


def test_frame_numbers_that_jump_are_gaps():
    numbers = [1, 2, 15, 0, 0]
    slices = [{**P_SLICE, "frame_number": n, "order_lsb": i + 1} for i, n in enumerate(numbers)]
    assert tally(IDR, *slices).num_number_gaps == 2


def test_a_picture_that_unmarks_all_starts_the_numbers_again():
    reset = {**P_SLICE, "frame_number": 1, "marking": 2}
    pictures = tally(IDR, reset, {**P_SLICE, "frame_number": 1, "order_lsb": 1})
    assert pictures.num_number_gaps == 0


def test_the_median_gop_is_one_that_occurs():
    gop_lengths = [4, 1, 2, 9, 5]  # the last one may be cut
    slices = [IDR | {"idr_pic_id": i} for i in range(5)]
    slices = [
        fields | {"frame_number": n, "order_lsb": n}
        for i, length in enumerate(gop_lengths)
        for n, fields in enumerate([slices[i], *[P_SLICE] * (length - 1)])
    ]
    assert tally(*slices).group_lengths() == (1, 2, 9)
