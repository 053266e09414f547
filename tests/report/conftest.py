"""Hand-made documents for tests of reports."""

import pytest
from evaluations import build_evaluation


@pytest.fixture(scope="session")
def make_evaluation():
    return build_evaluation
