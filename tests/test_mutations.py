"""The table of mutations stays true: each fits the file it names, and names tests that exist."""

from __future__ import annotations

import ast

import pytest
from mutations import MUTATIONS, ROOT, Mutation, mutated

pytestmark = pytest.mark.once


@pytest.mark.parametrize("mutation", MUTATIONS, ids=lambda mutation: mutation.name)
def test_a_mutation_fits_its_file_and_its_tests_exist(mutation: Mutation) -> None:
    assert mutated(mutation) != (ROOT / mutation.file).read_text()
    for test in mutation.tests:
        file, name = test.split("[")[0].split("::")
        tree = ast.parse((ROOT / file).read_text())
        names = {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}
        names |= {node.id for node in ast.walk(tree) if isinstance(node, ast.Name)}
        assert name in names


def test_mutations_have_names_of_their_own() -> None:
    assert len({mutation.name for mutation in MUTATIONS}) == len(MUTATIONS)
