"""Random numbers of torch's operators, drawn from keys. Needs PyTorch."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
import reference

torch = pytest.importorskip("torch", reason="PyTorch is not installed")

import fastdrop as fd  # noqa: E402
import fastdrop.torch as ft  # noqa: E402
from fastdrop import _core  # noqa: E402
from fastdrop.torch._keys import draw_key  # noqa: E402

pytestmark = pytest.mark.once

HALVES = [torch.float16, torch.bfloat16]
FLOATS = [*HALVES, torch.float32, torch.float64]
DIGITS = {torch.float16: 11, torch.bfloat16: 8, torch.float32: 24, torch.float64: 53}
INTEGERS = [torch.bool, torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64]

FILLS: dict[str, Callable[..., Any]] = {
    "uniform_": lambda x, **o: x.uniform_(**o),
    "normal_": lambda x, **o: x.normal_(**o),
    "exponential_": lambda x, **o: x.exponential_(**o),
    "bernoulli_": lambda x, **o: x.bernoulli_(0.3, **o),
    "bernoulli_ of a tensor": lambda x, **o: x.bernoulli_(torch.full(x.shape, 0.3), **o),
}


@pytest.fixture(params=["native", "Python"], autouse=True)
def installed(request: Any, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    if request.param == "Python":
        monkeypatch.setattr(_core, "native_random", lambda wanted: False)
    with ft.installed(random=True):
        yield


def key_of_next_call(seed: int = 0) -> Any:
    torch.manual_seed(seed)
    key = draw_key(None)
    torch.manual_seed(seed)
    return key


def rows(n: int) -> np.ndarray[Any, Any]:
    return np.arange(n, dtype=np.uint64)


# --- Values --------------------------------------------------------------------------------------


@pytest.mark.parametrize("n", [1, 16, 129, 5000])
def test_numbers_are_those_of_the_key(n: int) -> None:
    key = key_of_next_call()
    u = reference.uniforms(bytes(key), rows(n))
    for dtype in FLOATS:
        torch.manual_seed(0)
        digits = DIGITS[dtype]
        expected = torch.tensor((u >> np.uint64(64 - digits)).astype(float) * 2.0**-digits)
        assert torch.equal(torch.rand(n, dtype=dtype), expected.to(dtype))
    z = torch.from_numpy(reference.normals(bytes(key), rows(n)))
    e = torch.from_numpy(reference.exponentials(bytes(key), rows(n)))
    for dtype in FLOATS[:3]:
        torch.manual_seed(0)
        assert torch.equal(torch.randn(n, dtype=dtype), z.to(dtype))
        torch.manual_seed(0)
        assert torch.equal(torch.empty(n, dtype=dtype).exponential_(), e.to(dtype))
    torch.manual_seed(0)
    assert torch.equal(torch.randn(n, dtype=torch.float64), z.double())
    torch.manual_seed(0)
    exact = -np.log((u.astype(np.longdouble) + 0.5) / 2.0**64).astype(float)
    y = torch.empty(n, dtype=torch.float64).exponential_()
    np.testing.assert_allclose(y.numpy(), exact, rtol=1e-14)


@pytest.mark.parametrize("dtype", [*FLOATS, *INTEGERS])
def test_bits_are_those_of_the_family(dtype: Any) -> None:
    for p in (0.0, 0.3, 0.5, 1.0):
        key = key_of_next_call()
        bits = torch.from_numpy(fd.bernoulli((7, 131), p, key)).to(dtype)
        assert torch.equal(torch.empty(7, 131, dtype=dtype).bernoulli_(p), bits)
        for kind in FLOATS:
            if p in (0.0, 0.5, 1.0) or kind is torch.float64:
                torch.manual_seed(0)
                given = torch.full((7, 131), p, dtype=kind)
                assert torch.equal(torch.empty(7, 131, dtype=dtype).bernoulli_(given), bits)


def test_each_probability_is_compared_with_its_elements_uniform() -> None:
    p = torch.linspace(0, 1, 3001, dtype=torch.float64)
    key = key_of_next_call()
    u = reference.uniforms(bytes(key), rows(3001))
    expected = [int(x) < int(y * 2**64) for x, y in zip(u.tolist(), p.tolist(), strict=True)]
    assert torch.bernoulli(p).bool().tolist() == expected


SPELLINGS: dict[str, tuple[Callable[..., Any], Callable[..., Any]]] = {
    "rand": (lambda g: torch.rand(3, 50, generator=g), lambda x: x.uniform_()),
    "rand out": (
        lambda g: torch.rand(3, 50, generator=g, out=torch.empty(0)),
        lambda x: x.uniform_(),
    ),
    "rand_like": (
        lambda g: torch.rand(3, 50, generator=g) if g else torch.rand_like(torch.empty(3, 50)),
        lambda x: x.uniform_(),
    ),
    "randn": (lambda g: torch.randn(3, 50, generator=g), lambda x: x.normal_()),
    "normal of numbers": (
        lambda g: torch.normal(2.0, 3.0, (3, 50), generator=g),
        lambda x: x.normal_(2.0, 3.0),
    ),
    "normal of means": (
        lambda g: torch.normal(torch.full((3, 50), 2.0), 3.0, generator=g),
        lambda x: x.normal_().mul_(3.0).add_(2.0),
    ),
    "normal of stds": (
        lambda g: torch.normal(2.0, torch.full((3, 50), 3.0), generator=g),
        lambda x: x.normal_().mul_(3.0).add_(2.0),
    ),
    "normal of both, out": (
        lambda g: torch.normal(
            torch.full((3, 1), 2.0), torch.full((50,), 3.0), generator=g, out=torch.empty(0)
        ),
        lambda x: x.normal_().mul_(3.0).add_(2.0),
    ),
    "bernoulli": (
        lambda g: torch.bernoulli(torch.full((3, 50), 0.25), generator=g),
        lambda x: x.bernoulli_(0.25),
    ),
    "bernoulli of a number": (
        lambda g: torch.bernoulli(torch.empty(3, 50), 0.25, generator=g),
        lambda x: x.bernoulli_(0.25),
    ),
    "bernoulli out": (
        lambda g: torch.bernoulli(
            torch.full((3, 50), 0.25), generator=g, out=torch.empty(2, dtype=torch.int32)
        ).float(),
        lambda x: x.bernoulli_(0.25),
    ),
}


@pytest.mark.parametrize("name", SPELLINGS)
def test_every_spelling_draws_what_the_form_in_place_does(name: str) -> None:
    spelling, fill = SPELLINGS[name]
    torch.manual_seed(3)
    expected = fill(torch.empty(3, 50))
    torch.manual_seed(3)
    assert torch.equal(spelling(None), expected)
    generator = torch.Generator().manual_seed(3)
    assert torch.equal(spelling(generator), expected)
    assert not torch.equal(spelling(generator), expected)


def test_complex_numbers_are_pairs() -> None:
    for dtype in (torch.complex64, torch.complex128):
        for complex_, fill in ((torch.rand, "uniform_"), (torch.randn, "normal_")):
            torch.manual_seed(0)
            pairs = getattr(
                torch.empty(30, 2, dtype=torch.empty(0, dtype=dtype).real.dtype), fill
            )()
            torch.manual_seed(0)
            drawn = torch.view_as_real(complex_(30, dtype=dtype))
            scale = math.sqrt(0.5) if fill == "normal_" else 1.0
            torch.testing.assert_close(drawn, pairs * scale)


# --- Purity --------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", FILLS)
@pytest.mark.parametrize("dtype", FLOATS)
def test_numbers_do_not_depend_on_threads_or_layout(name: str, dtype: Any) -> None:
    shape = (5, 37, 301)
    results = []
    before = torch.get_num_threads()
    for threads in (1, 2):
        torch.set_num_threads(threads)
        whole = torch.zeros(7, 602, 40, dtype=dtype)
        for x in (
            torch.empty(shape, dtype=dtype),
            torch.empty(shape[::-1], dtype=dtype).permute(2, 1, 0),
            torch.empty(37, 5, 301, dtype=dtype).transpose(0, 1),
            whole[1:6, ::2, 3:].transpose(1, 2),
        ):
            torch.manual_seed(1)
            results.append(FILLS[name](x).clone(memory_format=torch.contiguous_format))
        untouched = whole.clone()
        untouched[1:6, ::2, 3:] = 0
        assert not untouched.any()
    torch.set_num_threads(before)
    assert all(torch.equal(x, results[0]) for x in results)


@pytest.mark.parametrize("name", FILLS)
def test_generators_advance_and_repeat(name: str) -> None:
    fill = FILLS[name]
    torch.manual_seed(0)
    first, second = fill(torch.empty(100)), fill(torch.empty(100))
    assert not torch.equal(first, second)
    state = torch.get_rng_state()
    third = fill(torch.empty(100))
    torch.set_rng_state(state)
    assert torch.equal(fill(torch.empty(100)), third)
    generator = torch.Generator().manual_seed(0)
    torch.manual_seed(5)
    state = torch.get_rng_state()
    assert torch.equal(fill(torch.empty(100), generator=generator), first)
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(fill(torch.empty(100), generator=generator), second)


@pytest.mark.parametrize("name", FILLS)
def test_the_tensor_itself_is_returned_and_empty_ones_draw_nothing(name: str) -> None:
    x = torch.empty(3)
    assert FILLS[name](x) is x
    state = torch.get_rng_state()
    FILLS[name](torch.empty(0, 4))
    assert torch.equal(torch.get_rng_state(), state)
    scalar = FILLS[name](torch.empty(()))
    assert scalar.shape == ()


# --- Distributions -------------------------------------------------------------------------------


def distance(sorted_: np.ndarray[Any, Any], cdf: np.ndarray[Any, Any]) -> float:
    """The distance of Kolmogorov and Smirnov, times the square root of the number."""
    n = len(sorted_)
    steps = np.arange(n + 1) / n
    return float(max((cdf - steps[:-1]).max(), (steps[1:] - cdf).max()) * math.sqrt(n))


def test_distributions_are_right() -> None:
    """With these seeds. By chance, a distance exceeds 2 once in 1500 draws."""
    n = 200_000
    torch.manual_seed(0)
    for dtype in (torch.float32, torch.float64):
        u = np.sort(torch.empty(n, dtype=dtype).uniform_(-2, 3).numpy())
        assert distance(u, (u + 2) / 5) < 2
        e = np.sort(torch.empty(n, dtype=dtype).exponential_(2.5).numpy())
        assert distance(e, -np.expm1(-2.5 * e)) < 2
        z = torch.empty(n, dtype=dtype).normal_(1, 2).sort().values
        cdf = torch.special.ndtr((z.double() - 1) / 2).numpy()
        assert distance(z.numpy(), cdf) < 2
    for p in (0.001, 0.3, 0.5, 0.999):
        spread = math.sqrt(n * p * (1 - p))
        assert abs(int(torch.empty(n).bernoulli_(p).sum()) - n * p) < 4 * spread
        given = torch.full((n,), p)
        assert abs(int(torch.bernoulli(given).sum()) - n * float(given[0])) < 4 * spread


@pytest.mark.parametrize("dtype", FLOATS)
def test_bounds_hold_in_every_dtype(dtype: Any) -> None:
    x = torch.empty(1 << 16, dtype=dtype)
    assert x.uniform_().min() >= 0
    assert x.max() < 1
    for a, b in ((1, 1.0625), (-1, 0), (-3, 5), (100, 101)):
        x.uniform_(a, b)
        assert a <= x.min()
        assert x.max() < b
    assert (x.uniform_(2, 2) == 2).all()
    for rate in (1e-3, 1.0, 1e4, 1e30):
        assert (x.exponential_(rate) > 0).all()
    assert not x.exponential_(math.inf).any()
    assert not (x.normal_(3, 0) != 3).any()


def test_one_sample_of_multinomial_has_the_given_probabilities() -> None:
    p = torch.tensor([0.1, 0.0, 0.2, 0.7]).expand(100_000, 4)
    torch.manual_seed(0)
    counts = torch.bincount(torch.multinomial(p, 1).flatten(), minlength=4) / 100_000
    assert counts[1] == 0
    torch.testing.assert_close(counts, p[0], atol=0.006, rtol=0)


# --- As torch ------------------------------------------------------------------------------------

ERRORS: dict[str, Callable[[], Any]] = {
    "p above 1": lambda: torch.empty(3).bernoulli_(1.5),
    "p NaN": lambda: torch.empty(0).bernoulli_(math.nan),
    "p of a tensor": lambda: torch.empty(3).bernoulli_(torch.tensor([0.5, 1.5, 0.2])),
    "p NaN of a tensor": lambda: torch.bernoulli(torch.tensor([0.5, math.nan])),
    "p of integers": lambda: torch.empty(3).bernoulli_(torch.tensor([1, 0, 1])),
    "p of another shape": lambda: torch.empty(3).bernoulli_(torch.full((2, 1), 0.5)),
    "bits of complex": lambda: torch.empty(3, dtype=torch.complex64).bernoulli_(0.5),
    "bits of uint16": lambda: torch.empty(3, dtype=torch.uint16).bernoulli_(0.5),
    "shared memory": lambda: torch.empty(1).expand(3).uniform_(),
    "shared memory of bits": lambda: torch.empty(1).expand(3).bernoulli_(torch.full((3,), 0.5)),
    "from above to": lambda: torch.empty(3).uniform_(2, 1),
    "to beyond the dtype": lambda: torch.empty(3, dtype=torch.float16).uniform_(0, 1e6),
    "from is NaN": lambda: torch.empty(3).uniform_(math.nan, 1),
    "wider than the dtype": lambda: torch.empty(3, dtype=torch.float16).uniform_(-6e4, 6e4),
    "many digits": lambda: torch.empty(3).uniform_(1 / 3, -1.25e-7),
    "large numbers": lambda: torch.empty(3).uniform_(1234567.0, 100000.0),
    "uniform integers": lambda: torch.empty(3, dtype=torch.int64).uniform_(),
    "uniform bools": lambda: torch.empty(3, dtype=torch.bool).uniform_(),
    "negative std": lambda: torch.empty(3).normal_(0, -1),
    "negative std of complex": lambda: torch.empty(3, dtype=torch.complex64).normal_(0, -1),
    "negative std of a tensor": lambda: torch.normal(0.0, torch.tensor([-1.0, 1.0])),
    "complex std": lambda: torch.normal(0.0, torch.ones(2, dtype=torch.complex64)),
    "shapes of normal": lambda: torch.normal(torch.zeros(6), torch.ones(2, 3)),
    "normal integers": lambda: torch.empty(3, dtype=torch.int64).normal_(),
    "rate 0": lambda: torch.empty(3).exponential_(0),
    "rate NaN": lambda: torch.empty(3).exponential_(math.nan),
    "exponential integers": lambda: torch.empty(3, dtype=torch.int32).exponential_(),
    "a leaf": lambda: torch.zeros(2, requires_grad=True).uniform_(),
}


@pytest.mark.parametrize("name", ERRORS)
def test_errors_are_torchs_and_draw_nothing(name: str) -> None:
    state = torch.get_rng_state()
    with pytest.raises(RuntimeError) as ours:
        ERRORS[name]()
    assert torch.equal(torch.get_rng_state(), state)
    ft.uninstall()
    with pytest.raises(RuntimeError) as theirs:
        ERRORS[name]()
    assert str(ours.value) == str(theirs.value)


def test_bits_may_replace_their_probabilities() -> None:
    p = torch.rand(400)
    torch.manual_seed(0)
    expected = torch.bernoulli(p)
    torch.manual_seed(0)
    assert torch.equal(p.clone().bernoulli_(p), expected)
    torch.manual_seed(0)
    own = p.clone()
    assert torch.equal(own.bernoulli_(own), expected)
    shifted = torch.zeros(401)
    shifted[1:] = p
    torch.manual_seed(0)
    assert torch.equal(shifted[:-1].bernoulli_(shifted[1:]), expected)


def test_uninstalling_restores_torchs_numbers() -> None:
    ft.uninstall()
    before = {name: seeded(fill) for name, fill in FILLS.items()}
    ft.install(random=True)
    ours = {name: seeded(fill) for name, fill in FILLS.items()}
    ft.uninstall()
    for name, fill in FILLS.items():
        assert torch.equal(seeded(fill), before[name])
        assert not torch.equal(ours[name], before[name])


def seeded(fill: Callable[..., Any]) -> Any:
    torch.manual_seed(0)
    return fill(torch.empty(2000))


def test_numbers_are_torchs_unless_asked_for() -> None:
    ft.uninstall()
    expected = {name: seeded(fill) for name, fill in FILLS.items()}
    with ft.installed():
        for name, fill in FILLS.items():
            assert torch.equal(seeded(fill), expected[name])


def test_gradients_are_torchs() -> None:
    x = torch.ones(4, requires_grad=True)
    for fill in FILLS.values():
        y = x * 2
        fill(y)
        (gradient,) = torch.autograd.grad(y.sum(), x)
        assert torch.equal(gradient, torch.zeros(4))
    mean = torch.zeros(3, requires_grad=True)
    torch.normal(mean, 1.0).sum().backward()
    assert torch.equal(mean.grad, torch.zeros(3))


@pytest.mark.parametrize("name", FILLS)
def test_vmap_draws_as_its_randomness_says(name: str) -> None:
    fill = FILLS[name]
    for randomness in ("same", "different"):
        y = torch.vmap(lambda x: fill(torch.empty_like(x)), randomness=randomness)(
            torch.ones(2, 99)
        )
        assert torch.equal(y[0], y[1]) == (randomness == "same")


def test_traced_graphs_draw_what_eager_calls_do() -> None:
    def draw(x: Any) -> Any:
        return torch.rand_like(x) + torch.randn(50) + x.new_empty(50).bernoulli_(0.3)

    torch._dynamo.reset()
    compiled = torch.compile(draw, backend="aot_eager", fullgraph=True)
    x = torch.ones(50)
    torch.manual_seed(4)
    expected = draw(x)
    torch.manual_seed(4)
    assert torch.equal(compiled(x), expected)
