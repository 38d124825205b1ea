import pytest

from esm_core.layers import layer_kind
from esm_core.merge import merges_essentially


@pytest.mark.parametrize(
    ("weight", "kind", "essential"),
    [
        ("visual.transformer.resblocks.0.attn.in_proj_weight", "attn.in_proj", True),
        ("visual.transformer.resblocks.11.attn.out_proj.weight", "attn.out_proj", False),
        ("visual.transformer.resblocks.3.mlp.c_fc.weight", "mlp.c_fc", True),
        ("transformer.resblocks.3.mlp.c_proj.weight", "mlp.c_proj", True),
        ("mlp.c_proj.weight", "mlp.c_proj", True),
        ("visual.transformer.resblocks.0.attn.in_proj_bias", None, False),
        ("visual.transformer.resblocks.0.mlp.c_fc.bias", None, False),
        ("visual.transformer.resblocks.0.xmlp.c_fc.weight", None, False),
        ("visual.conv1.weight", None, False),
        ("visual.proj", None, False),
        ("", None, False),
    ],
)
def test_the_name_of_a_weight_tells_its_kind(weight: str, kind: str | None, essential: bool) -> None:
    assert layer_kind(weight) == kind
    assert merges_essentially(weight) == essential
