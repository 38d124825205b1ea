"""ESM++ experts: per-task residuals against the published static weights (arXiv 2606.19164)."""

from esm_core.experts.file import (
    EXPERTS_NAME,
    ROUTING_NAME,
    Experts,
    RoutingConfig,
    dense_weights,
    read_experts,
)
from esm_core.experts.names import bias_of, linear_map, small_parameters

__all__ = [
    "EXPERTS_NAME",
    "ROUTING_NAME",
    "Experts",
    "RoutingConfig",
    "bias_of",
    "dense_weights",
    "linear_map",
    "read_experts",
    "small_parameters",
]
