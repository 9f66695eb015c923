"""ONNX's own node tests of its Dropout operator, passed by fastdrop: an outside check of meaning.

In evaluation they prescribe numbers; in training also a mask, which NumPy's generator drew for
them. So there the mask is given to `dropout`, and the scale, the result and the mask are compared.
"""

from __future__ import annotations

from typing import Any

import fastdrop as fd
import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from onnx.backend.test.case import node

# Importing the module of one operator puts its tests into a list. The public way to that list
# imports all operators, which takes ten seconds.
from onnx.backend.test.case.node import dropout as _imported_for_its_tests  # noqa: F401

pytestmark = pytest.mark.once

CASES = [case for case in node._NodeTestCases if "dropout" in case.name]


def parameters(case: Any) -> tuple[NDArray[Any], float, bool]:
    """Return x, the ratio and whether to train; the ratio was an attribute before version 12."""
    (operator,) = case.model.graph.node
    assert operator.op_type == "Dropout"
    attributes = {a.name: onnx.helper.get_attribute_value(a) for a in operator.attribute}
    x, *others = case.data_sets[0][0]
    ratio = others[0] if others else attributes.get("ratio", 0.5)
    training = bool(others[1]) if len(others) > 1 else False
    return x, float(ratio), training


def test_all_node_tests_are_found() -> None:
    assert len({case.name for case in CASES}) == len(CASES) == 12
    assert [parameters(case)[2] for case in CASES].count(True) == 6


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_the_node_tests_pass(case: Any) -> None:
    x, p, training = parameters(case)
    expected, *masks = case.data_sets[0][1]
    keep = masks[0] if masks else (expected != 0 if training else np.ones(x.shape, np.bool_))
    given = keep if training else None
    y, mask = fd.dropout(x, p, training=training, mask=given, return_mask=True)
    np.testing.assert_array_equal(y, expected)  # ratios of 1/2 and 3/4: no rounding
    assert y.dtype == expected.dtype
    np.testing.assert_array_equal(np.asarray(mask), keep)
    if not training or p == 0.0:  # then the mask is not a matter of chance
        drop = fd.Dropout(p, rng=1).train(training)
        np.testing.assert_array_equal(drop(x), expected)
        _, drawn = fd.dropout(x, p, training=training, rng=1, return_mask=True)
        np.testing.assert_array_equal(np.asarray(drawn), keep)
