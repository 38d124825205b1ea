"""The settings of the merge method (defaults: the published ones), of its experts, and of promotion."""

from typing import Annotated, Literal, Self

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, model_validator

from esm_core.layers import LAYER_KINDS, LayerKind
from esm_core.names import check_channel


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
        None, ge=1, description="Directions kept per task and layer; unset means `floor(d_out / tasks)`."
    )
    inter_task: bool = Field(True, description="Scale tasks by the norm of their update.")
    inter_dimension: bool = Field(True, description="Scale input dimensions by the norm of their column.")
    inter_layer: bool = Field(
        True, description="Scale layers of one kind by the norm of their merged update."
    )


RouterName = Literal["cosine", "token_gaussian", "token_moments"]


class ExpertSettings(BaseModel):
    """The experts of ESM++ and how an image finds its own (arXiv 2606.19164).

    The published configuration is ``layers: [attn.in_proj, mlp.c_fc]``, ``extras: false``,
    ``router: cosine``; the defaults were chosen by measurement (docs/experts.md).
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    layers: tuple[LayerKind, ...] = Field(
        LAYER_KINDS, min_length=1, description="Layer kinds with low-rank experts."
    )
    rank: int = Field(16, ge=1, description="Rank of every expert; at most the smallest side of its weight.")
    extras: bool = Field(
        True,
        description="Experts for `conv1`, `proj`, norms, biases, class token and positional embedding too.",
    )
    dtype: Literal["float32", "float16"] = Field(
        "float32", description="How experts are stored; loading gives float32."
    )
    router: Literal["auto", RouterName] = Field(
        "auto",
        description="`token_moments` and `token_gaussian` decide once per image, `cosine` in every layer, as "
        "published (it needs `extras: false`); `auto` takes the better of the first two on held-out proxies.",
    )
    proxies: int = Field(
        128, ge=2, description="Proxy images per task the router is fitted on, at most. Labels are not used."
    )

    @model_validator(mode="after")
    def _one_decision_for_extras(self) -> Self:
        if self.router == "cosine" and self.extras:
            raise ValueError(
                "router cosine decides in every layer, but extras need one decision per image; set "
                "extras: false or another router"
            )
        return self


class GateSettings(BaseModel):
    """When a merge promotes the version it has published: it is good enough, and nothing got worse."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    channel: Annotated[str, AfterValidator(check_channel)] = Field(
        "stable", description="The channel that is promoted to."
    )
    min_normalized: float = Field(
        ge=0,
        le=2,
        description="Least normalised accuracy (over the expert's, averaged over tasks): 0.85 is 85 %.",
    )
    max_drop: float = Field(
        0.01,
        ge=0,
        le=1,
        description="How much of its accuracy any task may lose against the channel's version: 0.01 is one "
        "percentage point.",
    )
