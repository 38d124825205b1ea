"""What a run did, stage by stage: kept in the manifest, so that a version says what it cost."""

from dataclasses import dataclass
from typing import Any

from pydantic import BaseModel, ConfigDict


@dataclass(frozen=True)
class Part:
    """One finished part of a stage.

    Attributes
    ----------
    bytes : int
        Size of the output.
    reused : bool
        Whether it was in the store already, complete.
    """

    bytes: int
    reused: bool


class StageRecord(BaseModel):
    """A finished stage of a run.

    Attributes
    ----------
    seconds : float
        Wall time from submission to the end of the last part.
    parts, reused : int
        How many parts it has, and how many of them were in the store already.
    bytes : int
        Of the parts' outputs together.
    """

    model_config = ConfigDict(frozen=True)

    name: str
    seconds: float
    parts: int
    reused: int
    bytes: int

    def __add__(self, other: "StageRecord") -> "StageRecord":
        """Both as one: a stage that was done in several goes."""
        return StageRecord(
            name=self.name,
            seconds=round(self.seconds + other.seconds, 3),
            parts=self.parts + other.parts,
            reused=self.reused + other.reused,
            bytes=self.bytes + other.bytes,
        )


def stage_record(name: str, seconds: float, results: list[Any]) -> StageRecord:
    """The record of a stage from the results of its parts, of which only :class:`Part` values count."""
    parts = [result for result in results if isinstance(result, Part)]
    return StageRecord(
        name=name,
        seconds=round(seconds, 3),
        parts=len(results),
        reused=sum(part.reused for part in parts),
        bytes=sum(part.bytes for part in parts),
    )
