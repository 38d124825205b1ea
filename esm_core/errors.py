"""The errors a caller of esmerge can meet.

Every message says what was wrong (file, task, layer, field), what was expected, and what to do.
``exit_code`` is what the command line exits with. All classes survive pickling, since tasks raise
them on other machines.
"""

from collections.abc import Iterable


class EsmergeError(Exception):
    """Base of every error esmerge raises on purpose."""

    exit_code = 1


class InputError(EsmergeError):
    """Something the user gave cannot be used: a recipe, checkpoint, image, head or store.

    Parameters
    ----------
    *problems : str
        One complete sentence per problem. All problems found together are reported together.
    """

    exit_code = 2

    @property
    def problems(self) -> tuple[str, ...]:
        return tuple(str(problem) for problem in self.args)

    def __str__(self) -> str:
        if len(self.args) == 1:
            return self.problems[0]
        lines = "\n".join(f"  - {problem}" for problem in self.problems)
        return f"{len(self.args)} problems:\n{lines}"


class IntegrityError(InputError):
    """Stored bytes are not the bytes that were written: truncated, damaged, or of a newer format."""


class NewerFormatError(IntegrityError):
    """A file of the store that a newer esmerge wrote: nothing is damaged, and nothing is replaced."""


class ExtensionError(InputError):
    """A file that adds a merge method, a naming scheme or an image source cannot be used as it is."""


class TransientStorageError(EsmergeError):
    """Storage failed in a way that may pass (time-out, reset, 5xx). The only error tasks retry."""


class MergeFailed(EsmergeError):
    """Parts of a merge failed. The message names every failed part and why.

    Parameters
    ----------
    message : str
        The full message.
    exit_code : int
        2 when every failed part failed on the user's input, else 1.
    """

    def __init__(self, message: str, exit_code: int = 1) -> None:
        super().__init__(message, exit_code)
        self.exit_code = exit_code

    def __str__(self) -> str:
        return str(self.args[0])


def raise_together(problems: Iterable[str]) -> None:
    """Raise one :class:`InputError` holding every problem; do nothing where there is none."""
    found = list(dict.fromkeys(problems))
    if found:
        raise InputError(*found)
