"""Garbage collection on a schedule."""

from prefect import flow

from tasks.clean import clean_store


@flow(name="clean", persist_result=False)
def clean(store: str, keep: int = 5, min_age: str = "7d", delete: bool = True) -> str:
    """Delete what nothing needs from a store: old versions, and what only they were made from.

    Parameters
    ----------
    store : str
        URL of the store.
    keep : int
        Newest versions to keep of every artifact.
    min_age : str
        Keep what is younger: 7d, 12h, 30m, 0s.
    delete : bool
        Off: only say what would go.

    Returns
    -------
    str
        What was done.
    """
    return clean_store(store, keep, min_age, delete)
