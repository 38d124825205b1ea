"""One task's expert as a PEFT (LoRA) adapter of the published static open_clip model.

Nothing here imports PEFT: an adapter is a JSON file and a safetensors file, whose names and meaning are
those of PEFT 0.21 (``peft.utils.save_and_load``, ``peft.tuners.lora``).
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from esm_core.errors import InputError
from esm_core.experts import Experts, dense_weights
from esm_core.layers import CONV

_PREFIX = "base_model.model."
_LINEAR = (".mlp.c_fc.weight", ".mlp.c_proj.weight")
_PACKED = ".attn.in_proj_weight"


@dataclass(frozen=True)
class Adapter:
    """What the two files of an adapter hold.

    Attributes
    ----------
    config : dict
        ``adapter_config.json``.
    tensors : dict
        ``adapter_model.safetensors``, sorted by key.
    low_rank, modules, whole : tuple of str
        Parameters held as LoRA factors, those of modules PEFT keeps a copy of per adapter, and those that
        replace the base model's. Together: everything the expert changes.
    """

    config: dict[str, Any]
    tensors: dict[str, Tensor]
    low_rank: tuple[str, ...]
    modules: tuple[str, ...]
    whole: tuple[str, ...]


def adapter(experts: Experts, static: Mapping[str, Tensor], task: str) -> Adapter:
    """One task's expert as an adapter; with it the model computes what its oracle mode does.

    Parameters
    ----------
    static : mapping
        ``visual.`` name → published static weight. Parameters held whole get its dtype.

    Raises
    ------
    InputError
        No such task, or there is no matrix among the experts that an adapter can hold in low rank.

    Notes
    -----
    PEFT's LoRA of ``nn.MultiheadAttention`` adds the change of ``out_proj`` twice (PEFT 0.21, its pull
    request 3774), and what else is attached to ``out_proj`` is never called. So ``in_proj_weight`` is
    reached as a parameter and ``out_proj`` is held whole.
    """
    index = experts.index(task)
    low_rank = tuple(sorted(name for name in experts.low_rank if _has_lora(name)))
    if not low_rank:
        raise InputError("the experts change no matrix that PEFT can hold in low rank; use --task.")
    rest = sorted((experts.low_rank.keys() | experts.deltas.keys()) - set(low_rank))
    norms = sorted({_module(name) for name in rest if _is_norm(name)})
    modules = tuple(f"{norm}.{part}" for norm in norms for part in ("weight", "bias"))
    wrapped = [_module(name) for name in low_rank]
    dense = dense_weights(experts, static, task)
    tensors = {_PREFIX + _wrapped_name(name, wrapped): dense[name] for name in {*rest, *modules}}
    for name in low_rank:
        down, up = (part[index] for part in experts.low_rank[name])
        tensors |= _factors(name, down, up, static[name])
    ranks = {name: experts.low_rank[name][0].shape[1] for name in low_rank}
    return Adapter(
        _config(ranks, experts.config.rank, norms),
        {key: tensors[key].contiguous() for key in sorted(tensors)},
        low_rank,
        modules,
        tuple(name for name in rest if name not in modules),
    )


def _has_lora(weight: str) -> bool:
    return weight == CONV or weight.endswith((_PACKED, *_LINEAR))


def _is_norm(name: str) -> bool:
    return _module(name).rpartition(".")[2].startswith("ln_")


def _module(name: str) -> str:
    return name.rpartition(".")[0]


def _wrapped_name(name: str, wrapped: list[str]) -> str:
    """Where a parameter is once PEFT has put its layers around the modules ``wrapped``."""
    for module in wrapped:
        if name.startswith(f"{module}."):
            return f"{module}.base_layer{name.removeprefix(module)}"
    return name


def _factors(name: str, down: Tensor, up: Tensor, static: Tensor) -> dict[str, Tensor]:
    if name == CONV:
        down, up = down.reshape(len(down), *static.shape[1:]), up[:, :, None, None]
    module = _PREFIX + _module(name)
    return {f"{module}.lora_A.weight": down, f"{module}.lora_B.weight": up}


def _config(ranks: Mapping[str, int], rank: int, norms: list[str]) -> dict[str, Any]:
    # PEFT scales by alpha / rank, and an expert is not scaled: so they are equal everywhere.
    others = {
        name if name.endswith(_PACKED) else _module(name): own for name, own in ranks.items() if own != rank
    }
    return {
        "peft_type": "LORA",
        "task_type": None,
        "base_model_name_or_path": None,
        "inference_mode": True,
        "r": rank,
        "lora_alpha": rank,
        "rank_pattern": others,
        "alpha_pattern": others,
        "lora_dropout": 0.0,
        "target_modules": [_module(name) for name in ranks if not name.endswith(_PACKED)],
        "target_parameters": [name for name in ranks if name.endswith(_PACKED)],
        "modules_to_save": norms,
        # Makes PEFT refuse a second adapter on the same model: this one has replaced parameters in it.
        "bias": "all",
    }
