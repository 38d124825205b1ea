"""The watch: starts a merge when what it would read has changed. Runs on a schedule and on events."""

from prefect import flow

from tasks import watch as tasks


@flow(name="watch", persist_result=False)
def watch(recipe: str, deployment: str = "merge/merge") -> str:
    """Start a merge of a recipe if its inputs differ from those of the newest version.

    Parameters
    ----------
    recipe : str
        Path or URL of the recipe.
    deployment : str
        The deployment that merges, as flow/deployment.

    Returns
    -------
    str
        What was seen and done.
    """
    sight = tasks.look_at(recipe)
    if sight is None:
        return "there is too little to merge yet"
    if sight.current:
        return f"up to date: {sight.current}"
    return tasks.start_merge(deployment, recipe, sight.name, sight.inputs)
