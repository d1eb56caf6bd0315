"""What every entry point does with errors."""

import pytest

from caspi import command
from caspi.errors import CaspiError, RecipeError


def fail(error: BaseException) -> None:
    raise error


def test_a_caspi_error_is_its_message_and_its_exit_code(capsys: pytest.CaptureFixture[str]):
    assert command.run(lambda: fail(RecipeError("data.language: missing"))) == 2
    assert command.run(lambda: fail(CaspiError("the tracker does not answer"))) == 1
    shown = capsys.readouterr()
    assert shown.err == "caspi: data.language: missing\ncaspi: the tracker does not answer\n"
    assert shown.out == ""


def test_another_error_is_our_bug_and_keeps_its_traceback():
    with pytest.raises(ZeroDivisionError):
        command.run(lambda: fail(ZeroDivisionError()))


def test_the_exit_code_is_what_main_says():
    assert command.run(lambda: 3) == 3
    assert command.run(lambda: None) == 0
    assert command.run(lambda: fail(KeyboardInterrupt())) == 130
