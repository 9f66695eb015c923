"""Decisions that elements share: channels, time steps and samples."""

from __future__ import annotations

import fastdrop as fd
import numpy as np
import pytest

pytestmark = pytest.mark.once


@pytest.mark.parametrize("ndim", [3, 4, 5])
def test_wrong_ranks_and_channel_axes_are_refused(ndim: int) -> None:
    function = {3: fd.dropout1d, 4: fd.dropout2d, 5: fd.dropout3d}[ndim]
    layer = {3: fd.Dropout1d, 4: fd.Dropout2d, 5: fd.Dropout3d}[ndim](rng=1)
    for wrong in (ndim - 1, ndim + 1):
        for call in (lambda x: function(x, 0.5, rng=1), layer):
            with pytest.raises(ValueError, match=f"x must have {ndim} axes, with the batch first"):
                call(np.zeros((2,) * wrong))
    for axis, kind in ((0, ValueError), (-ndim, ValueError), (ndim, ValueError), (1.0, TypeError)):
        with pytest.raises(kind, match="channel_axis must"):
            function(np.zeros((2,) * ndim), 0.5, channel_axis=axis, rng=1)
        with pytest.raises(kind, match="channel_axis must"):
            type(layer)(channel_axis=axis)


def test_bad_options_are_refused() -> None:
    x = np.zeros((3, 4))
    for call, text in (
        (lambda: fd.drop_path(x, per="row"), "per must be 'sample' or 'batch', got 'row'"),
        (lambda: fd.DropPath(per="row"), "per must be 'sample' or 'batch', got 'row'"),
        (lambda: fd.drop_path(x, batch_axis=2), "batch_axis must be an axis"),
        (lambda: fd.locked_dropout(x, time_axis=-3), "time_axis must be an axis"),
    ):
        with pytest.raises(ValueError, match=text):
            call()
    with pytest.raises(TypeError, match="scale_by_keep must be True or False"):
        fd.drop_path(x, scale_by_keep=1)  # type: ignore[arg-type]


def test_layers_refuse_a_bad_axis_when_made() -> None:
    """Would catch a layer that notices it only when it is called."""
    for make, name in (
        (fd.LockedDropout, "time_axis"),
        (fd.DropPath, "batch_axis"),
        (fd.FeatureAlphaDropout, "channel_axis"),
    ):
        for bad in ("a", 1.0, None):
            with pytest.raises(TypeError, match=f"{name} must be an int, got {bad!r}"):
                make(**{name: bad})
        assert getattr(make(**{name: np.int64(-1)}), name) == -1
    with pytest.raises(ValueError, match="channel_axis must not be axis 0, the batch, got 0"):
        fd.FeatureAlphaDropout(channel_axis=0)


def test_the_repr_shows_what_is_not_default() -> None:
    assert repr(fd.LockedDropout()) == "LockedDropout(p=0.5, inplace=False)"
    assert repr(fd.LockedDropout(time_axis=1)) == "LockedDropout(p=0.5, inplace=False, time_axis=1)"
    assert repr(fd.DropPath()) == "DropPath(p=0.5, inplace=False)"
    odd = fd.DropPath(per="batch", batch_axis=1, scale_by_keep=False)
    assert repr(odd) == (
        "DropPath(p=0.5, inplace=False, per='batch', batch_axis=1, scale_by_keep=False)"
    )


def test_drop_path_rates_rise_linearly_to_p() -> None:
    assert fd.drop_path_rates(0.3, 4) == pytest.approx([0.0, 0.1, 0.2, 0.3])
    assert fd.drop_path_rates(0.3, 1) == [0.3]
    assert fd.drop_path_rates(0.3, 0) == []
    assert fd.drop_path_rates(0.6, [1, 2, 1]) == [[0.0], pytest.approx([0.2, 0.4]), [0.6]]
    assert fd.drop_path_rates(0.6, [2, 1], stagewise=True) == [[0.0, 0.0], [0.6]]
    for p in (0.1, 0.2, 0.3, 0.7, 1.0):
        for depth in range(1, 50):
            assert fd.drop_path_rates(p, depth)[-1] == p
            assert max(fd.drop_path_rates(p, depth)) == p
    with pytest.raises(ValueError, match="stagewise"):
        fd.drop_path_rates(0.5, 3, stagewise=True)
    with pytest.raises(ValueError, match="depth must be an int of at least 0, got -1"):
        fd.drop_path_rates(0.5, -1)
    with pytest.raises(ValueError, match="p must be"):
        fd.drop_path_rates(1.5, 3)
