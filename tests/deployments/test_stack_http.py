"""What is asked of a server that is busy, and of one that fails."""

import threading
import urllib.error
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest

from deployments.stack.http import ask


@pytest.fixture
def answering() -> Iterator[Callable[[list[int]], str]]:
    """Starts a server that answers with the given statuses, one per call; returns its address."""
    servers = []

    def start(statuses: list[int]) -> str:
        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                self.send_response(statuses.pop(0))
                self.end_headers()
                self.wfile.write(b"[1]")

            def log_message(self, *_: object) -> None:
                pass

        server = HTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=server.serve_forever).start()
        servers.append(server)
        return f"http://127.0.0.1:{server.server_port}"

    yield start
    for server in servers:
        server.shutdown()
        server.server_close()


def test_a_busy_server_is_asked_again(answering: Callable[[list[int]], str]) -> None:
    left = [503, 200, 200]
    assert ask(answering(left)) == [1]
    assert left == [200]


def test_an_error_is_final(answering: Callable[[list[int]], str]) -> None:
    left = [500, 200]
    with pytest.raises(urllib.error.HTTPError, match="500"):
        ask(answering(left))
    assert left == [200]
