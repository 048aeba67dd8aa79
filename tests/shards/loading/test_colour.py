"""Differences of colours, against the pipeline's own matrices and by hand."""

import numpy as np
import pytest

from gopstream.pipeline import jpeg
from gopstream.pipeline.transcode import KEPT_MATRICES
from gopstream.shards.errors import DamageError, ShardError
from gopstream.shards.loading import colour
from gopstream.shards.loading.colour import rgb_of_differences


def content(matrix="smpte170m", *, mode="canonical", full_range=False):
    return {"source": {"matrix": matrix, "full_range": full_range}, "settings": {"mode": mode}}


def test_the_matrices_are_those_with_which_frames_are_stored():
    assert colour._LUMA_WEIGHTS == jpeg._LUMA_WEIGHTS
    assert set(KEPT_MATRICES) == set(colour._LUMA_WEIGHTS)


@pytest.mark.parametrize("matrix", KEPT_MATRICES)
def test_it_is_the_inverse_of_the_matrix_over_the_limited_range(matrix):
    from_rgb = jpeg._from_rgb(*jpeg._LUMA_WEIGHTS[matrix])
    expected = np.linalg.inv(from_rgb) @ np.diag([255 / 219, 255 / 224, 255 / 224])
    np.testing.assert_allclose(rgb_of_differences(content(matrix), where="s"), expected, atol=2e-6)


def test_bt601_by_hand():
    """The numbers of ITU-R BT.601: 1.164, 1.596, 0.392, 0.813, 2.017."""
    expected = [[1.164, 0, 1.596], [1.164, -0.392, -0.813], [1.164, 2.017, 0]]
    found = rgb_of_differences(content("unspecified"), where="s")
    np.testing.assert_allclose(found, expected, atol=6e-4)


def test_only_a_native_stream_keeps_the_full_range_of_its_source():
    full = rgb_of_differences(content(mode="native", full_range=True), where="s")
    np.testing.assert_allclose(full[:, 0], 1.0)
    limited = rgb_of_differences(content(mode="canonical", full_range=True), where="s")
    np.testing.assert_allclose(limited[:, 0], 255 / 219, rtol=1e-6)


@pytest.mark.parametrize("matrix", ["ycgco", "gbr", "bt2020c"])
def test_a_native_stream_of_another_kind_of_matrix_is_refused(matrix):
    """The canonical stream is converted to BT.601 by FFmpeg; a native one is as it was."""
    assert (
        rgb_of_differences(content(matrix), where="s")
        == rgb_of_differences(content("smpte170m"), where="s")
    ).all()
    with pytest.raises(ShardError, match=f"s: .* matrix is '{matrix}'; shard the video with"):
        rgb_of_differences(content(matrix, mode="native"), where="s")


def test_a_json_without_colours_names_the_sample():
    with pytest.raises(DamageError, match="sample a: the json does not say the colours"):
        rgb_of_differences({"source": {}}, where="sample a")
