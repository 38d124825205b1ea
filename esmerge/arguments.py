"""Arguments and options that several commands take."""

from typing import Annotated

import typer

RecipeArgument = Annotated[str, typer.Argument(help="Recipe: a path, file:// or s3:// URL.")]
StoreOption = Annotated[str, typer.Option(help="Store: a path, file:// or s3:// URL.")]
NameArgument = Annotated[str, typer.Argument(help="Name of the artifact.")]
VersionArgument = Annotated[
    str, typer.Argument(help="latest, a number, a label such as v000012, or a channel such as stable.")
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON.")]
