"""What commands print on standard output: tables and text, or one JSON document."""

import json
import sys
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

out = Console(highlight=False, soft_wrap=True)


def print_json(content: Any) -> None:
    sys.stdout.write(json.dumps(content, indent=2, sort_keys=True) + "\n")


def print_accuracy(manifest: Any) -> None:
    from esm_core.model_card import accuracy_rows, routing_rows

    header, rows = accuracy_rows(manifest["metrics"]["accuracy"])
    print_table("Accuracy on the test images, %", "normalised: accuracy over the expert's", header, rows)
    print_table("Test images routed to their own expert, %", "", *routing_rows(manifest["metrics"]))


def print_table(title: str, caption: str, header: list[str], rows: list[list[str]]) -> None:
    if not rows:
        return
    table = Table(box=SIMPLE_HEAD)
    for index, column in enumerate(header):
        table.add_column(column.replace(" ", "\n"), justify="right" if index else "left", no_wrap=True)
    for row in rows:
        if row[0] == "mean":
            table.add_section()
        table.add_row(*row)
    out.print(f"\n[bold]{title}[/bold]")
    # As wide as it is, whatever the terminal: squeezed columns cannot be read.
    Console(highlight=False, width=1000).print(table)
    if caption:
        out.print(caption)
