"""The checks of the documentation find what is wrong with it."""

from pathlib import Path

import pytest
from documents import Block, commands
from test_code_blocks import check_words, check_yaml, reason_not_to_run

from esm_core.errors import InputError


def lines(text: str, language: str = "bash") -> list[str]:
    return [line.text for line in commands(Block("docs/x.md", 1, language, text))]


def test_commands_are_joined_where_they_continue_and_lose_their_comments() -> None:
    assert lines("esmerge land R cats \\\n    --proxy p  # why\n\n# nothing\nmake demo\n") == [
        "esmerge land R cats --proxy p",
        "make demo",
    ]


def test_of_a_console_only_what_follows_a_prompt_is_a_command() -> None:
    assert lines("$ esmerge gc --store S\nKept\n4 files\n", "console") == ["esmerge gc --store S"]


def test_text_below_a_command_belongs_to_it() -> None:
    (made,) = commands(Block("docs/x.md", 1, "bash", "cat > a.py <<'END'\nprint(1)\nEND\n"))
    assert (made.text, made.given) == ("cat > a.py <<'END'", "print(1)\n")


@pytest.mark.parametrize(
    "wrong",
    [
        "esmerge marge recipe.yaml",
        "esmerge merge recipe.yaml --wrokers 2",
        "make dmeo",
        "python benchmarks/nothing.py",
        "python benchmarks/experts.py --nothing 1",
        "python -m benchmarks.nothing",
    ],
)
def test_what_does_not_exist_is_found(wrong: str) -> None:
    with pytest.raises(AssertionError):
        check_words(wrong, "here")


def test_a_command_that_nobody_listed_has_no_reason() -> None:
    (unknown,) = commands(Block("docs/x.md", 1, "bash", "rm -r store\n"))
    assert reason_not_to_run(unknown) is None
    (listed,) = commands(Block("docs/x.md", 1, "bash", "A=1 dask worker tcp://HOST:8786\n"))
    assert reason_not_to_run(listed)


@pytest.mark.parametrize("wrong", ["expertz: {}", "alpha: 9", "promote_if: {channel: stable}"])
def test_a_wrong_part_of_a_recipe_is_found(wrong: str, tmp_path: Path) -> None:
    with pytest.raises(InputError):
        check_yaml(Block("docs/x.md", 1, "yaml", wrong + "\n"), tmp_path)
