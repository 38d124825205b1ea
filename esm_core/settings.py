"""The settings of the merge method; the defaults are the published ones."""

from pydantic import BaseModel, ConfigDict, Field


class MergeSettings(BaseModel):
    """How Essential Subspace Merging combines updates.

    ``MergeSettings()`` is the published configuration (arXiv 2602.20208): eigenvalue
    exponent 0.15, scaling exponent 2, rank ``floor(d_out / T)``, all three scalings on.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    eigen_exponent: float = Field(
        0.15, ge=0, le=4, description="Exponent of the eigenvalue weights on the basis; 0 switches them off."
    )
    scaling_exponent: float = Field(
        2.0, ge=0, le=8, description="Exponent p of the three polarised scalings."
    )
    rank: int | None = Field(
        None, ge=1, description="Directions kept per task and layer; unset means floor(d_out / tasks)."
    )
    inter_task: bool = Field(True, description="Scale tasks by the norm of their update.")
    inter_dimension: bool = Field(True, description="Scale input dimensions by the norm of their column.")
    inter_layer: bool = Field(
        True, description="Scale layers of one kind by the norm of their merged update."
    )
