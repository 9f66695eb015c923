"""Dropout for NumPy arrays at the speed of memory.

`p` is the probability to DROP an element, everywhere in this package. (The papers that introduced
dropout call p the probability to keep one.)

Whether an element is kept is a pure function of a key, of `p` and of the element's C-order index.
So a mask is the same for every number of threads, CPU, memory layout, dtype and chunk, and is
never stored: what is needed again is drawn again.
"""

from fastdrop import functional, layers, monte_carlo, schedules
from fastdrop._config import get_num_threads, set_num_threads, show_config
from fastdrop._core import __version__
from fastdrop._mask import Mask
from fastdrop.functional import *  # noqa: F403
from fastdrop.layers import *  # noqa: F403
from fastdrop.monte_carlo import MonteCarlo
from fastdrop.random import Key

__all__ = [
    "Key",
    "Mask",
    "MonteCarlo",
    "__version__",
    "get_num_threads",
    "monte_carlo",
    "schedules",
    "set_num_threads",
    "show_config",
]
__all__ += functional.__all__
__all__ += layers.__all__
