"""Layers: the state that training keeps between calls. The formulas are in the functions.

A `Layer` has p, the keys of its calls, a mode and the plan of its last call. A subclass names the
record of its member and has the options that the record reads.
"""

import inspect
import itertools
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from functools import cache
from typing import TYPE_CHECKING, Any, ClassVar, Generic, NamedTuple, Never, Self

import numpy as np
from numpy.typing import ArrayLike

from fastdrop import _core
from fastdrop._base.arguments import (
    INVERTED,
    MOST_ARRAYS,
    Array,
    as_array,
    as_axis_numbers,
    as_flag,
    as_operands,
    as_out,
    check_inplace,
    check_mode,
    explained,
    float_array,
    probability,
    refuse,
    refuse_attribute,
    shown,
)
from fastdrop._base.gradients import InputOf
from fastdrop._base.keys import NO_KEY, RNG, STREAM_VERSION, Key, as_key
from fastdrop._base.masks import publish
from fastdrop._base.members import NO_AXES, Member, scaled
from fastdrop._base.plans import Plan, apply_recipe, evaluate, plan_of_recipe
from fastdrop._base.states import as_state, call_keys, check_stream, checked_state, split_state

if TYPE_CHECKING:
    from typing_extensions import TypeVar  # with defaults, which Python has from 3.13 on

    Recipe = TypeVar("Recipe", default=Any)
else:
    from typing import TypeVar

    Recipe = TypeVar("Recipe")

_forward = _core.forward
_ndarray = np.ndarray


@contextmanager
def call_key(keys: _core.CallKeys) -> Iterator[Key]:
    """Take the key of a training call, and give it back if the call fails."""
    key, taken = keys.take()
    try:
        yield key
    except BaseException:
        taken.undo()
        raise


def put_back(thing: object, before: dict[str, Any]) -> None:
    """Restore an object's attributes; update first, because Ctrl-C may interrupt the removal."""
    vars(thing).update(before)
    for name in vars(thing).keys() - before.keys():
        vars(thing).pop(name, None)


class _LastCall:
    """Memory of a layer's last call, in an object of its own: layers check attributes when set.

    The plan and what `backward` needs of the inputs are one tuple: a signal handler may call the
    layer between any two assignments.
    """

    __slots__ = ("plan_and_inputs",)

    def __init__(self) -> None:
        self.plan_and_inputs: tuple[Any, tuple[Any, ...]] = (None, ())


def _as_mode(mode: Any, name: str) -> Any:
    if mode is not None:
        check_mode(mode)
    return mode


def _as_samples(samples: Any, name: str) -> Any:
    if not isinstance(samples, Samples | None):
        raise TypeError(f"{name} must be Samples or None, got {shown(samples)}")
    return samples


_CHECKS: dict[str, Callable[[Any, str], Any]] = {
    "training": as_flag,
    "inplace": as_flag,
    "scale_by_keep": as_flag,
    "mode": _as_mode,
    "broadcast_dims": as_axis_numbers,
    "_samples": _as_samples,
}
"""Checks of attributes when they are set."""


class Samples(NamedTuple):
    """The keys of a layer during one run of a Monte Carlo model.

    Axis 0 of an input has one equal part per key; its length is a multiple of `rows`. With
    `shared`, all rows of a part share a mask.
    """

    keys: tuple[Key, ...]
    rows: int
    shared: bool


class Layer(Generic[Recipe]):
    """Base class of the layers: training call number i draws with ``layer.key.fold_in(i)``.

    A new layer is in training mode. Every call also takes ``training=True`` or ``False``, which
    overrides the mode for this call. Calls in evaluation are not counted. Concurrent calls from
    several threads get different numbers. ``layer.forward`` is the call itself.

    `state_dict` saves everything that training changes. A copy, pickled or not, continues with the
    same masks but has no last call: call it once before `backward`.

    Setting an attribute that a layer does not have, such as a misspelt one, raises AttributeError.
    Subclasses of your own may add attributes.

    Attributes
    ----------
    p : float
        Probability to DROP, in [0, 1]; can be set between calls.
    key : Key
        The layer's key. Setting it (to anything that `rng` takes) restarts the count of calls.
    calls : int
        Number of training calls so far.
    training : bool
        Whether the layer is in training mode.
    mask : recipe or None
        Mask of the last call; None before the first call and after a call in evaluation.

    Examples
    --------
    >>> drop = fd.GaussianDropout(0.5, rng=0)
    >>> with drop.hold():
    ...     first, second = drop(np.ones(3)), drop(np.ones(3))
    >>> bool((first == second).all()), drop.calls, isinstance(drop, fd.Layer)
    (True, 1, True)
    """

    training: bool
    _member: ClassVar[Member]
    _is_ours: ClassVar[bool] = True  # whether fastdrop defines the class
    _of_weights: ClassVar[bool] = False  # whether inputs are weights, with no examples along axis 0
    _samples: Samples | None = None
    if TYPE_CHECKING:
        mode: Any

    def __init_subclass__(cls) -> None:
        """Make `forward` the call, and let the constructor explain unknown options."""
        cls._is_ours = cls.__module__.startswith("fastdrop.")
        publish(cls)
        if cls._is_ours and "__init__" in vars(cls):
            cls.__init__ = explained(cls.__init__)  # type: ignore[method-assign]
        if "__call__" in vars(cls):
            cls.forward = cls.__call__  # type: ignore[attr-defined]

    def __init__(self, p: float, rng: RNG) -> None:
        self.p = p
        self.training = True
        self._keys = _core.CallKeys(as_key(rng))
        self._last = _LastCall()
        self._samples = None

    def __setattr__(self, name: str, value: Any) -> None:
        """Set an attribute that the layer has; a user's subclass may add others."""
        if name in _CHECKS:
            value = _CHECKS[name](value, name)
        if self._is_ours and name[0] != "_" and name not in (known := self._known()):
            refuse_attribute(name, self, sorted(known))
        object.__setattr__(self, name, value)

    @classmethod
    @cache
    def _options(cls) -> dict[str, Any]:
        """Return the options of the constructor, and their defaults."""
        parameters = list(inspect.signature(cls.__init__).parameters.values())[1:]
        return {one.name: one.default for one in parameters if one.name not in ("p", "rng")}

    @classmethod
    @cache
    def _known(cls) -> set[str]:
        """Return the names of attributes that can be set: options, properties and variables."""
        names = {name for name in dir(cls) if name[0] != "_" and not callable(getattr(cls, name))}
        for base in cls.__mro__:
            names.update(inspect.get_annotations(base))
            if issubclass(base, Layer):
                names.update(base._options())
        return {name for name in names if name[0] != "_"}

    @property
    def p(self) -> float:
        """Probability to drop."""
        return self._p

    @p.setter
    def p(self, p: float) -> None:
        self._p = probability(p)

    @property
    def key(self) -> Key:
        """The layer's key."""
        return self._keys.key

    @key.setter
    def key(self, rng: RNG) -> None:
        self._keys = _core.CallKeys(as_key(rng))

    @property
    def calls(self) -> int:
        """Number of training calls so far."""
        return self._keys.state[0]

    @property
    def mask(self) -> Recipe | None:
        """Mask of the last call; None before the first call and after a call in evaluation."""
        plan, _ = self._last.plan_and_inputs
        return None if plan is None else plan.recipe

    def train(self, mode: bool = True) -> Self:
        """Switch to training mode (False: to evaluation), and return the layer."""
        self.training = as_flag(mode, "mode")
        return self

    def eval(self) -> Self:
        """Switch to evaluation mode, and return the layer."""
        return self.train(False)

    def hold(self) -> Self:
        """Use the key of the next call for all calls until `release`, and return the layer.

        ``with layer.hold():`` releases it at the end of the block.
        """
        self._keys.hold()
        return self

    def release(self) -> Self:
        """End `hold`: the next call gets a new key. Return the layer."""
        self._keys.release()
        return self

    def __enter__(self) -> Self:
        if not self._keys.state[1]:
            raise RuntimeError("a layer must be held in a with statement: use `with layer.hold():`")
        return self

    def __exit__(self, *exception: object) -> None:
        self.release()

    def state_dict(self) -> dict[str, Any]:
        """Return all that training changes: enough to continue elsewhere with the same masks.

        The entries fit into JSON: "stream" (int, version of the random stream), "key" (str,
        hexadecimal), "calls" (int), "held" and "held_call" (bool: whether `hold` is on, and whether
        a call followed it) and "p" (float).

        >>> state = fd.Dropout(0.2, rng=fd.Key.from_bytes(b"sixteen bytes...")).state_dict()
        >>> state["key"], state["calls"], state["p"]
        ('7369787465656e2062797465732e2e2e', 0, 0.2)
        """
        calls, held, held_call = self._keys.state
        return {
            "stream": STREAM_VERSION,
            "key": bytes(self.key).hex(),
            "calls": calls,
            "held": held,
            "held_call": held_call,
            "p": self._p,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore a `state_dict`.

        The layer is unchanged if an entry is missing, unknown or wrong, or if the stream has
        another version.
        """
        self._keys, self._p = checked_state(state)
        self._last = _LastCall()

    def _run(
        self,
        inputs: tuple[Array, ...],
        out: Array | None,
        training: bool | None,
        kept: tuple[Any, ...] = (),
    ) -> Array:
        """Return a call's result; keep its plan and what is `kept` of its inputs for `backward`."""
        plan: Any
        if not (self.training if training is None else self._trains(training)):
            y, plan = self._evaluate(inputs, out)
        elif self._samples is None:
            y, plan = self._train(inputs, out, self._keys, False)
        else:
            y, plan = self._sample(inputs, out, self._samples)
        self._last.plan_and_inputs = plan, kept
        return y

    def _keep(self, plan: Plan, kept: tuple[Any, ...] = ()) -> None:
        """Keep the plan of a call, and what is `kept` of its inputs for `backward`."""
        self._last.plan_and_inputs = (plan, kept)

    def _trains(self, training: bool | None) -> bool:
        """Return whether a call drops; in a Monte Carlo run it always does."""
        if training is None:
            return self.training
        return as_flag(training, "training") or self._samples is not None

    def _sample(
        self, inputs: tuple[Array, ...], out: Array | None, samples: Samples
    ) -> tuple[Array, Any]:
        """Return the result and the plan of a call in a Monte Carlo run of one sample."""
        return self._train(inputs, out, self._keys, False)

    def _combine(self, inputs: tuple[Any, ...], out: Array | None, training: bool | None) -> Array:
        """Return the result of a call with several arrays and the user's `out`."""
        arrays = as_operands(self._member.names, inputs)
        target = None if out is None else as_out(out)
        y = self._run(arrays, target, training, tuple(InputOf(x.shape, x.dtype) for x in arrays))
        return y if out is None else out

    def _train(
        self, inputs: tuple[Array, ...], out: Array | None, keys: _core.CallKeys, whole: bool
    ) -> tuple[Array, Any]:
        """Return a training call's result and plan; `whole` shares one mask along axis 0."""
        member, p = self._member, self._p
        if member.draw is not None:
            return self._train_recipe(inputs[0], out, keys, whole)
        read = member.read
        option = read(self)
        shared = option if option is NO_AXES else member.axes(inputs[0].shape, option)
        if whole and 0 not in shared and inputs[0].ndim:
            shared = (0, *shared)
        mode = self.mode
        if mode is INVERTED and member.numbers is scaled:
            return _forward(member.operation, inputs, out, keys, p, shared)
        return _forward(member.operation, inputs, out, keys, p, shared, member.numbers(p, mode))

    def _train_recipe(
        self, x: Array, out: Array | None, keys: _core.CallKeys, whole: bool
    ) -> tuple[Array, Plan]:
        """Do the same as `_train`, for a member whose recipe does the work itself."""
        float_array(x, "x")
        draw: Any = self._member.draw
        with call_key(keys) as key:
            shape = (1, *x.shape[1:]) if whole and x.ndim else x.shape
            recipe = draw(shape, self._p, key, self._member.read(self))
            return apply_recipe(recipe, self._scaling, x, out), self._plan(recipe, x)

    @property
    def _scaling(self) -> str | None:
        """The mode; "inverted" for a layer that has none, because its recipe scales by itself."""
        return getattr(self, "mode", INVERTED)

    def _plan(self, recipe: Any, x: Array) -> Plan:
        """Return the plan of a call whose recipe does the work itself."""
        return plan_of_recipe(recipe, self._scaling, x.shape)

    def _evaluate(self, inputs: tuple[Array, ...], out: Array | None) -> tuple[Array, Any]:
        """Return the result and the plan of a call in evaluation."""
        member, shape = self._member, inputs[0].shape
        option = member.read(self)
        if member.draw is not None:
            member.draw(shape, self._p, NO_KEY, option)  # only to check the shape
            return _forward("select", inputs, out, None, 0.0, (), 1.0)
        if option is not NO_AXES:
            member.axes(shape, option)
        return evaluate(member, inputs, out, self._p, self.mode)

    def _last_call(self) -> tuple[Any, tuple[Any, ...]]:
        """Return the plan of the last call, and what it kept of its inputs."""
        if self._samples is not None and len(self._samples.keys) > 1 and not self._of_weights:
            raise RuntimeError("backward needs one sample, got a batch: use MonteCarlo.samples")
        plan, kept = self._last.plan_and_inputs
        if plan is None:
            raise RuntimeError("backward needs a forward call before it")
        return plan, kept

    @property
    def _takes_rows(self) -> bool:
        """Whether each row of the only input can have the masks of its own sample."""
        return False

    @property
    def _was_called(self) -> bool:
        """Whether a call took a key since the keys were set."""
        calls, _, held_call = self._keys.state
        return calls > 0 or held_call

    @contextmanager
    def _sampling(self, samples: Samples) -> Iterator[None]:
        """Draw these samples in any mode; restore the layer afterwards."""
        before = dict(vars(self))
        try:
            self.training = True
            self._keys = _core.CallKeys(samples.keys[0], 0, self._keys.state[1])
            self._samples, self._last = samples, _LastCall()
            yield
        finally:
            put_back(self, before)

    def __getstate__(self) -> dict[str, Any]:
        keys = self.key, *self._keys.state
        return {**vars(self), "_keys": keys, "_last": None, "_stream": STREAM_VERSION}

    def __setstate__(self, state: Any) -> None:
        own = as_state(state)
        check_stream(own.pop("_stream", None), "a pickled layer")
        (keys, p, _), _ = split_state(own, ("_keys", "_p", "training"))
        if not isinstance(keys, tuple) or len(keys) != 4:
            raise ValueError(f"state must have a tuple of 4 as _keys, got {shown(keys)}")
        for name in _CHECKS.keys() & own:
            own[name] = _CHECKS[name](own[name], name)
        ours: Any = next(base for base in type(self).__mro__ if vars(base).get("_is_ours"))
        own.update(ours._checked(own), _p=probability(p), _keys=call_keys(*keys))
        vars(self).update(own, _last=_LastCall())

    @classmethod
    def _checked(cls, state: Mapping[str, Any]) -> dict[str, Any]:
        """Return the attributes that the constructor makes of a pickled state's options."""
        options = cls._options()
        given, _ = split_state(state, tuple(options))
        made = cls(p=0.0, rng=NO_KEY, **dict(zip(options, given, strict=True)))
        return {name: getattr(made, name) for name in options}

    def _shown(self) -> dict[str, Any]:
        """Return the options that `repr` shows: `inplace`, and all that differ from the default."""
        return {
            name: getattr(self, name)
            for name, default in self._options().items()
            if hasattr(self, name) and (name == "inplace" or getattr(self, name) != default)
        }

    def __repr__(self) -> str:
        shown = {"p": self._p, **self._shown()}
        return f"{type(self).__name__}({', '.join(f'{k}={v!r}' for k, v in shown.items())})"


class ElementwiseLayer(Layer[Recipe]):
    """A layer that takes one array and returns one of the same shape.

    Its attribute `inplace` tells whether a call overwrites its input.

    >>> isinstance(fd.Dropout2d(), fd.ElementwiseLayer)
    True
    """

    inplace = False

    def __call__(self, x: ArrayLike, *, training: bool | None = None, **unknown: Never) -> Array:
        """Apply the layer to an array, as its function does; `training` overrides the mode.

        `x` must be writeable if `inplace`. The result is `x` itself if the layer works in place or
        there is nothing to do. A call that raises an error does not count.
        """
        if unknown:
            refuse(unknown, self.__call__)
        array = x if type(x) is _ndarray else as_array(x, "x")
        out = check_inplace(x, array) if self.inplace else None
        y = self._run((array,), out, training)
        return x if y is array and isinstance(x, _ndarray) else y

    def _sample(
        self, inputs: tuple[Array, ...], out: Array | None, samples: Samples
    ) -> tuple[Array, Any]:
        """Return the result of a Monte Carlo run: each part of axis 0 has its own key."""
        (x,) = inputs
        if self._of_weights or len(samples.keys) == 1:
            whole = samples.shared and not self._of_weights
            return self._train(inputs, out, self._keys, whole)
        if x.ndim == 0 or x.shape[0] % samples.rows:
            raise ValueError(
                f"x must have the rows of {len(samples.keys)} samples, a multiple of "
                f"{samples.rows}, along axis 0, got shape {x.shape}"
            )
        y = np.empty_like(x) if out is None else out
        call = self.calls
        self._keys.take()
        split = (len(samples.keys), x.shape[0] // len(samples.keys), *x.shape[1:])  # always views
        for part, target, key in zip(x.reshape(split), y.reshape(split), samples.keys, strict=True):
            self._train((part,), target, _core.CallKeys(key, call), samples.shared)
        return y, None

    @property
    def _takes_rows(self) -> bool:
        return type(self).__call__ is ElementwiseLayer.__call__ and not self._of_weights

    def backward(self, dy: ArrayLike) -> Array:
        """Return the gradient with respect to the input of the last call.

        `dy`, the gradient with respect to the output, has the shape of this input. The result has
        the dtype of `dy`, and is `dy` itself if there is nothing to do.
        """
        plan, kept = self._last_call()
        gradient: Array = plan.backward(as_array(dy, "dy"), *kept)
        return gradient


_adapters: list[Callable[[object], Any]] = []


def adapt(adapter: Callable[[object], Any]) -> None:
    """Register an adapter that turns objects into layers for `as_layers`.

    It returns None for other objects.
    """
    _adapters.append(adapter)


def as_layers(layers: Any) -> tuple[tuple[Any, ...], tuple[Any, ...]]:
    """Return two tuples: one layer or several as given, and what adapters make of them."""
    one = _as_layer(layers)
    if one is not None:
        return (layers,), (one,)
    if not isinstance(layers, Iterable):
        raise TypeError(f"layers must be layers of fastdrop, got {shown(layers)}")
    several = tuple(itertools.islice(layers, MOST_ARRAYS + 1))
    if len(several) > MOST_ARRAYS:
        raise ValueError(f"layers must be at most {MOST_ARRAYS}, got more")
    for layer in several:
        if _as_layer(layer) is None:
            raise TypeError(f"layers must be layers of fastdrop, got {shown(layer)}")
    if len(set(map(id, several))) != len(several):
        raise ValueError(f"layers must not name a layer twice, got {shown(several)}")
    if not several:
        raise ValueError("layers must have at least one layer, got none")
    return several, tuple(map(_as_layer, several))


def _as_layer(layer: object) -> Any:
    if isinstance(layer, Layer):
        return layer
    adapted = (adapter(layer) for adapter in _adapters)
    return next((one for one in adapted if one is not None), None)
