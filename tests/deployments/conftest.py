"""The stack that these tests share."""

from stacks import stack

__all__ = ["stack"]
