"""Numbers as reports write them."""

import pytest

from caspi.page import number


@pytest.mark.parametrize(
    ("value", "written"),
    [(0.12345, "0.123"), (-3.14159, "−3.14"), (99.96, "100"), (999.7, "1,000"), (1061.6, "1,062"), (0.0, "0")],
)
def test_numbers_have_three_digits_or_all_before_the_point(value: float, written: str) -> None:
    assert number(value) == written
