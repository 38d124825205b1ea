"""What commands print: tables and text on standard output, progress on standard error."""

import contextlib
import json
import logging
import sys
import time
from collections.abc import Iterator
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from esm_core.model_card import accuracy_rows, routing_rows

out = Console(highlight=False, soft_wrap=True)


def print_json(content: Any) -> None:
    sys.stdout.write(json.dumps(content, indent=2, sort_keys=True) + "\n")


def print_accuracy(manifest: Any) -> None:
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


@contextlib.contextmanager
def progress() -> Iterator[None]:
    """Print what tasks report meanwhile, with the seconds since the start, on standard error."""
    started = time.monotonic()

    class Progress(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            sys.stderr.write(f"{time.monotonic() - started:7.1f} s  {record.getMessage()}\n")
            sys.stderr.flush()

    handler, loggers = Progress(), [logging.getLogger(name) for name in ("esmerge", "esm_core")]
    for logger in loggers:
        logger.setLevel(logging.INFO)
        logger.addHandler(handler)
    try:
        yield
    finally:
        for logger in loggers:
            logger.removeHandler(handler)
