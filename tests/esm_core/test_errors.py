import pickle

import pytest

from esm_core.errors import (
    EsmergeError,
    InputError,
    IntegrityError,
    MergeFailed,
    TransientStorageError,
    raise_together,
)


@pytest.mark.parametrize(
    "error",
    [
        EsmergeError("it broke"),
        InputError("one problem."),
        InputError("one problem.", "another."),
        IntegrityError("damaged."),
        TransientStorageError("try again."),
        MergeFailed("two parts failed", exit_code=2),
    ],
    ids=lambda error: type(error).__name__,
)
def test_errors_survive_the_way_to_another_machine(error: EsmergeError) -> None:
    copy = pickle.loads(pickle.dumps(error))  # noqa: S301  our own bytes
    assert type(copy) is type(error)
    assert (str(copy), copy.args, copy.exit_code) == (str(error), error.args, error.exit_code)


def test_one_problem_reads_as_a_sentence_and_several_as_a_list() -> None:
    assert str(InputError("A is wrong.")) == "A is wrong."
    assert str(InputError("A is wrong.", "B is too.")) == "2 problems:\n  - A is wrong.\n  - B is too."


def test_exit_codes_tell_the_users_mistakes_from_other_failures() -> None:
    assert (InputError("x").exit_code, IntegrityError("x").exit_code) == (2, 2)
    assert (TransientStorageError("x").exit_code, MergeFailed("x").exit_code) == (1, 1)


def test_raise_together_reports_each_problem_once() -> None:
    raise_together([])
    with pytest.raises(InputError) as caught:
        raise_together(iter(["a.", "b.", "a."]))
    assert caught.value.problems == ("a.", "b.")
