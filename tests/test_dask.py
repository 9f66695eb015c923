"""Dask arrays: the masks of NumPy for every chunking, scheduler, and number of workers."""

from __future__ import annotations

import pickle
import subprocess
import sys
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import dask
import dask.array as da
import fastdrop as fd
import fastdrop.dask as lazy
import numpy as np
import pytest
from support import DTYPES, KEY, as_key, assert_same, values

pytestmark = [
    pytest.mark.once,
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),  # of Dask's own
]

KEY_ = as_key(KEY)
CHUNKS = [(6, 8, 5), (4, 3, 2), (1, 8, 1), (5, 7, 4)]
FUNCTIONS = [name for name in lazy.__all__ if name != "from_mask"]


def shaped(name: str) -> tuple[int, ...]:
    """The shape of an input; the number of axes is fixed for some."""
    return (6, 8, 5) + (2,) * {"dropout2d": 1, "dropout3d": 2}.get(name, 0)


@pytest.mark.parametrize("chunks", CHUNKS)
@pytest.mark.parametrize("name", FUNCTIONS)
def test_blocks_are_parts_of_the_result_for_the_whole(name: str, chunks: Any) -> None:
    shape = shaped(name)
    x = values(shape, np.float32)
    more = {"activation": "tanh"} if name == "activation_dropout" else {}
    expected, mask = getattr(fd, name)(x, 0.3, rng=KEY_, return_mask=True, **more)
    blocks = da.from_array(x, chunks=chunks + (1,) * (len(shape) - 3))
    function = partial(getattr(lazy, name), **more)
    y, drawn = function(blocks, 0.3, rng=KEY_, return_mask=True)
    assert y.chunks == blocks.chunks
    assert drawn == mask
    assert_same(y.compute(scheduler="sync"), expected)
    assert_same(function(blocks, mask=mask).compute(scheduler="threads"), expected)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_every_dtype(dtype: Any) -> None:
    x = values((30, 40), dtype)
    y = lazy.dropout(da.from_array(x, chunks=(7, 40)), 0.3, rng=KEY_)
    assert y.dtype == dtype
    assert_same(y.compute(), fd.dropout(x, 0.3, rng=KEY_))


def test_options_are_those_of_the_function() -> None:
    x = values((6, 8, 5), np.float32)
    blocks = da.from_array(x, chunks=(4, 3, 2))
    for name, options in [
        ("dropout", {"broadcast_dims": (0, 2), "mode": "standard"}),
        ("feature_dropout", {"channel_axis": -1}),
        ("locked_dropout", {"time_axis": 1}),
        ("drop_path", {"batch_axis": 1, "scale_by_keep": False}),
        ("gelu_dropout", {"approximate": "tanh"}),
        ("silu_dropout", {"mode": "standard"}),
        ("activation_dropout", {"activation": "elu", "alpha": 0.5}),
    ]:
        for training in (True, False):
            settings = {**options, "training": training, "rng": KEY_}
            expected = getattr(fd, name)(x, 0.3, **settings)
            assert_same(getattr(lazy, name)(blocks, 0.3, **settings).compute(), expected)


def test_the_mask_of_evaluation_keeps_everything() -> None:
    x = da.ones((6, 8), chunks=4)
    for function in (lazy.dropout, lazy.locked_dropout):
        y, mask = function(x, 0.5, training=False, rng=KEY_, return_mask=True)
        assert mask.p == 0.0
        assert_same(function(x, mask=mask).compute(), y.compute())


@pytest.mark.parametrize("shape", [(), (0, 3), (1,)])
def test_arrays_of_no_or_one_element(shape: tuple[int, ...]) -> None:
    x = da.ones(shape, chunks=1)
    assert_same(
        np.asarray(lazy.dropout(x, 0.3, rng=KEY_).compute()),
        np.asarray(fd.dropout(np.ones(shape), 0.3, rng=KEY_)),
    )


def test_masks_become_dask_arrays() -> None:
    mask = fd.Mask((7, 11), 0.4, KEY_).region((2, 3), (5, 8))
    lazily = lazy.from_mask(mask, chunks=(2, 3))
    assert lazily.dtype == np.bool_
    assert_same(lazily.compute(), mask.to_numpy())
    assert_same(lazily[1:3, ::2].compute(), mask.to_numpy()[1:3, ::2])
    for scalar in (fd.Mask((), p, KEY_) for p in (0.0, 1.0)):
        assert_same(np.asarray(lazy.from_mask(scalar).compute()), scalar.to_numpy())


# Keys


def test_the_key_is_drawn_once_and_is_part_of_the_graph() -> None:
    x = da.ones((50, 50), chunks=20)
    y = lazy.dropout(x, 0.5)
    assert np.array_equal(y.compute(), y.compute())
    assert np.array_equal(pickle.loads(pickle.dumps(y)).compute(), y.compute())
    assert lazy.dropout(x, 0.5, rng=KEY_).name == lazy.dropout(x, 0.5, rng=KEY_).name
    names = {lazy.dropout(x, 0.5, rng=rng).name for rng in (KEY_, 1, None, None)}
    names |= {lazy.dropout(x, 0.4, rng=KEY_).name, lazy.alpha_dropout(x, 0.5, rng=KEY_).name}
    assert len(names) == 6


def test_a_generator_advances_when_the_graph_is_made_and_only_if_it_is() -> None:
    rng, same = np.random.default_rng(0), np.random.default_rng(0)
    x = da.ones(10, chunks=4)
    for bad in (
        lambda: lazy.dropout(x.astype(int), rng=rng),
        lambda: lazy.dropout(x, 1.5, rng=rng),
        lambda: lazy.dropout(x[x > 0], rng=rng),
        lambda: lazy.dropout(x, rng=rng, mask=fd.Mask(10, 0.5, KEY_)),
        lambda: lazy.dropout(x, rng=rng, inplace=True),
        lambda: lazy.dropout(np.ones(3), rng=rng),
        lambda: lazy.feature_dropout(x, rng=rng),
    ):
        with pytest.raises((TypeError, ValueError)):
            bad()
    lazy.dropout(x, training=False, rng=rng)
    lazy.dropout(x, 0.0, rng=rng)
    y = lazy.dropout(x, rng=rng)
    assert_same(y.compute(), fd.dropout(np.ones(10), rng=fd.Key(same)))
    assert rng.bit_generator.state == same.bit_generator.state


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (([1.0], 0.5), "x must be a dask.array.Array, got list"),
        ((da.ones(3, chunks=1, dtype=int), 0.5), "x must have dtype .*, got int64"),
    ],
)
def test_bad_input_is_named(arguments: Any, message: str) -> None:
    with pytest.raises(TypeError, match=message):
        lazy.dropout(*arguments)


def test_an_unknown_keyword_says_what_is_meant() -> None:
    x = da.ones(3, chunks=1, dtype=np.float32)
    with pytest.raises(TypeError, match="dropout has no argument 'seed': rng takes seeds"):
        lazy.dropout(x, seed=1)
    with pytest.raises(
        TypeError, match=r"dropout has no argument 'out': it has x, p, .*return_mask$"
    ):
        lazy.dropout(x, out=x)


# Workers


def test_processes_draw_the_same_masks() -> None:
    x = da.ones((200, 30), chunks=(60, 30), dtype=np.float32)
    y = lazy.dropout(x, 0.4, rng=KEY_)
    expected = fd.dropout(np.ones((200, 30), dtype=np.float32), 0.4, rng=KEY_)
    for start in ("spawn", "forkserver"):
        with dask.config.set({"multiprocessing.context": start}):
            assert_same(y.compute(scheduler="processes", num_workers=2), expected)


@pytest.fixture
def cluster() -> Iterator[Any]:
    """Two workers in their own processes."""
    from distributed import Client, LocalCluster

    with (
        LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address=None) as workers,
        Client(workers) as client,
    ):
        yield client


@pytest.mark.filterwarnings("ignore")  # of sockets that a killed worker leaves
def test_a_killed_worker_leaves_no_trace_in_the_result(cluster: Any) -> None:
    """Its blocks are computed again, by another."""
    x = da.ones((64, 1000), chunks=(4, 1000), dtype=np.float32)
    y = lazy.dropout(x, 0.4, rng=KEY_).persist()
    expected = fd.dropout(np.ones((64, 1000), dtype=np.float32), 0.4, rng=KEY_)
    assert_same(y.compute(), expected)
    victim, blocks = next((name, keys) for name, keys in cluster.has_what().items() if keys)
    assert blocks
    cluster.run(_exit, workers=[victim], nanny=True, on_error="ignore")
    assert_same(y.compute(), expected)


def _exit(dask_worker: Any = None) -> None:
    """End the worker of a nanny at once, as a crash does."""
    if dask_worker is not None and dask_worker.process is not None:
        dask_worker.process.process.kill()


LARGE = """
import resource, sys
import dask, dask.array as da, fastdrop as fd, fastdrop.dask, numpy as np
folder, elements = sys.argv[1], int(sys.argv[2])
source = da.arange(1, elements + 1, chunks=1 << 20, dtype="float32")
with dask.config.set(scheduler="threads", num_workers=2):
    source.to_zarr(folder + "/x.zarr")
    x = da.from_zarr(folder + "/x.zarr")
    fastdrop.dask.dropout(x, 0.5, rng=fd.Key(0)).to_zarr(folder + "/y.zarr")
    y = da.from_zarr(folder + "/y.zarr")
    kept = int((y != 0).sum().compute())
assert kept == fd.Mask(elements, 0.5, fd.Key(0)).count(), kept
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
"""


def test_arrays_on_disk_go_through_in_bounded_memory(tmp_path: Path) -> None:
    """Four times the data take no more memory."""

    def peak(elements: int) -> int:
        folder = tmp_path / str(elements)
        folder.mkdir()
        done = subprocess.run(
            [sys.executable, "-W", "ignore", "-c", LARGE, str(folder), str(elements)],
            check=True, stdout=subprocess.PIPE, text=True,
        )  # fmt: skip
        return int(done.stdout) * 1024

    small, large = peak(1 << 23), peak(1 << 25)
    assert large - small < 2**25, "less than a quarter of what the larger array has more"


# xarray


def test_xarray_keeps_coordinates_and_attributes() -> None:
    import xarray

    data = da.ones((4, 6), chunks=3)
    x = xarray.DataArray(
        data, dims=("time", "x"), coords={"time": range(4)}, attrs={"units": "m"}, name="height"
    )
    y, mask = lazy.dropout(x, 0.5, rng=KEY_, return_mask=True)
    assert isinstance(y, xarray.DataArray)
    assert (y.dims, y.attrs, y.name) == (x.dims, x.attrs, x.name)
    assert list(y.coords["time"].values) == [0, 1, 2, 3]
    assert isinstance(y.data, da.Array)
    assert_same(y.values, mask.apply(np.ones((4, 6))))
    same = xarray.apply_ufunc(
        lambda block: lazy.dropout(block, 0.5, rng=KEY_), x, dask="allowed", keep_attrs=True
    )
    assert same.attrs == x.attrs
    assert_same(same.values, y.values)
