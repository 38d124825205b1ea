"""Finding out which activation function a checkpoint was trained with."""

import json
from typing import Any, Literal

from esm_core.checkpoints.base import Checkpoint
from esm_core.checkpoints.open import HF_NAMES, OPEN_CLIP_NAMES
from esm_core.errors import InputError
from esm_core.storage import Location

Activation = Literal["gelu", "quick_gelu"]
Evidence = tuple[Activation, str]

_CONFIGS = {
    **dict.fromkeys(OPEN_CLIP_NAMES, ("open_clip_config.json", "config.json")),
    **dict.fromkeys(HF_NAMES, ("config.json", "open_clip_config.json")),
}
_HF_CLIP = ("clip", "clip_vision_model")


def activation_evidence(location: Location, checkpoint: Checkpoint) -> Evidence | None:
    """What the files say about the activation function of ``checkpoint``.

    Looks at the metadata key ``activation`` of the file, then at the configuration beside it. The
    latter counts only where the checkpoint has the name that open_clip or transformers give it, since
    in any other folder it may belong to something else.

    Parameters
    ----------
    location : Location
        Where the checkpoint is: its file, or the folder it was opened from.
    checkpoint : Checkpoint

    Returns
    -------
    (activation, source) or None
        ``"gelu"`` or ``"quick_gelu"``, and where that was found; None where nothing says it.

    Raises
    ------
    InputError
        A configuration is not valid JSON, or names another activation function.
    """
    stated = checkpoint.metadata.get("activation")
    if stated is not None:
        return _known(stated, f"{checkpoint.location}: metadata key activation"), "the file's metadata"
    file = checkpoint.location if location == checkpoint.location.parent else location
    for name in _CONFIGS.get(file.name, ()):
        config = file.parent / name
        if not config.is_file():
            continue
        parsed = _read_json(config)
        found = _from_open_clip(parsed) if name.startswith("open_clip") else _from_hf(parsed, config)
        if found is not None:
            return found, f"{name} beside it"
    return None


def _read_json(config: Location) -> dict[str, Any]:
    try:
        parsed = json.loads(config.read_bytes().decode("utf-8"))
    except (ValueError, RecursionError) as error:
        reason = str(error)[:150] or type(error).__name__
        raise InputError(f"{config}: is not valid JSON ({reason}). Repair or remove it.") from error
    if not isinstance(parsed, dict):
        raise InputError(f"{config}: is not a JSON object. Repair or remove it.")
    return parsed


def _from_open_clip(parsed: dict[str, Any]) -> Activation | None:
    model = parsed.get("model_cfg")
    if not isinstance(model, dict):
        return None
    return "quick_gelu" if model.get("quick_gelu", False) else "gelu"


def _from_hf(parsed: dict[str, Any], config: Location) -> Activation | None:
    nested = parsed.get("vision_config")
    for section in (nested, parsed):
        if isinstance(section, dict) and section.get("hidden_act") is not None:
            return _known(section["hidden_act"], f"{config}: hidden_act")
    # transformers leaves a value out of a nested section where it is its own default.
    return "quick_gelu" if parsed.get("model_type") in _HF_CLIP else None


def _known(value: object, where: str) -> Activation:
    if value == "gelu":
        return "gelu"
    if value == "quick_gelu":
        return "quick_gelu"
    raise InputError(f"{where} is {value!r}; esmerge merges models with gelu or quick_gelu only.")
