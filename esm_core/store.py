"""The store's root: its format, its folders, and the ledger of what was learned about inputs.

Layout (contract; a change needs a new format number and a reader for the old one)::

    {store}/format.json                  format of the store, written once
    {store}/inspections/{digest}.json    ledger: content digests and checks of inputs
    {store}/imports/{sha256}.safetensors remote .pt checkpoints, rewritten once for lazy reading
    {store}/plans/{sha256}.json          resolved recipes, given to tasks by reference
    {store}/shifts/{digest}/             collected layer inputs of one fine-tune
    {store}/bases/{digest}/{weight}.safetensors one fine-tune's decomposition of one weight
    {store}/merges/{digest}/{weight}/    merged update of one weight
    {store}/spectra/{digest}.json        energy curves of one fine-tune's updates, a few layers
    {store}/lines/{digest}/              merged towers of every alpha, for its search
    {store}/features/{digest}/           features of one task's proxies by base and fine-tune
    {store}/scores/{digest}.json         score of one alpha for one task
    {store}/alphas/{digest}.json         the alpha that a search has chosen
    {store}/static/{digest}/             the merged checkpoint, before publication
    {store}/zero-shot/{digest}.safetensors heads made of class names
    {store}/evaluations/{digest}.json    accuracy of one model on one task
    {store}/artifacts/{name}/v000001/    published versions
    {store}/artifacts/{name}/channels/   where channels point, and pointed
    {store}/leases/{uuid}.json           what running merges need
    {store}/gc/running.json              a garbage collection is deleting
"""

import json
import uuid
from collections.abc import Callable, Mapping
from typing import Any

from esm_core.errors import InputError
from esm_core.stages import FORMAT, canonical_json, check_format, digest_of, read_versioned
from esm_core.storage import Location


def check_store(store: Location) -> None:
    """Refuse a store that a newer esmerge wrote. Nothing is written; a store not yet made is fine."""
    location = store / "format.json"
    if location.is_file():
        try:
            version = int(json.loads(location.read_bytes())["format"])
        except (ValueError, KeyError, TypeError, OverflowError) as error:
            raise InputError(f"{location}: is damaged; it should say the store's format.") from error
        check_format(location, version)


def prepare_store(store: Location) -> None:
    """Make the store where it is absent and prove that it can be written.

    Raises
    ------
    InputError
        The store cannot be written, or is of a newer format.
    """
    check_store(store)
    probe = store / f"probe-{uuid.uuid4().hex}"
    try:
        (store / "format.json").create(canonical_json({"format": FORMAT}))
        probe.write_bytes(b"esmerge")
        probe.delete()
    except InputError as error:
        raise InputError(f"store: {store} cannot be written: {error}") from error


def remember(
    store: Location, kind: str, key: Mapping[str, Any], compute: Callable[[], dict[str, Any]]
) -> dict[str, Any]:
    """The facts known under ``key``; computed and noted where they are not known yet.

    Parameters
    ----------
    store : Location
    kind : str
        What is known, such as ``checkpoint``.
    key : mapping
        Everything the facts depend on; JSON values. Cheap fingerprints of files, not their contents.
    compute : callable
        Makes the facts, JSON values. What it raises is not noted.
    """
    known = recall(store, kind, key)
    if known is None:
        known = compute()
        _entry(store, kind, key).write_bytes(canonical_json({"format": FORMAT, "facts": known}))
    return known


def recall(store: Location, kind: str, key: Mapping[str, Any]) -> dict[str, Any] | None:
    """The facts noted under ``key`` by an earlier run, or None."""
    entry = _entry(store, kind, key)
    return read_versioned(entry, "facts") if entry.is_file() else None


def _entry(store: Location, kind: str, key: Mapping[str, Any]) -> Location:
    return store / "inspections" / f"{digest_of(kind, key)}.json"
