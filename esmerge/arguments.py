"""Arguments and options that several commands take."""

from typing import Annotated

import typer

from esmerge.completion import complete_channel, complete_name, complete_version

RecipeArgument = Annotated[str, typer.Argument(help="Recipe: a path, file:// or s3:// URL.")]
StoreOption = Annotated[str, typer.Option(help="Store: a path, file:// or s3:// URL.")]
NameArgument = Annotated[str, typer.Argument(help="Name of the artifact.", autocompletion=complete_name)]
VersionArgument = Annotated[
    str,
    typer.Argument(
        help="latest, a number, a label such as v000012, or a channel such as stable.",
        autocompletion=complete_version,
    ),
]
ChannelOption = Annotated[
    str, typer.Option(help="Name of the channel, such as stable.", autocompletion=complete_channel)
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print one JSON document, on errors too.")]
