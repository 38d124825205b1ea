"""JSON over HTTP, to the parts of a stack."""

import json
import time
import urllib.error
import urllib.request
from typing import Any

_ATTEMPTS = 5


def ask(url: str, body: Any = None, method: str | None = None) -> Any:
    """The JSON that a server of the stack answers with.

    Parameters
    ----------
    url : str
        ``http://`` only.
    body : optional
        Sent as JSON, by POST.
    method : str, optional
        Another method.

    Raises
    ------
    OSError
        No answer, or an answer that is an error.

    Notes
    -----
    A Prefect server whose database is locked by others answers 503, having done nothing: it is asked again,
    as by Prefect's own client.
    """
    if not url.startswith("http://"):
        raise ValueError(f"{url}: only http:// is asked")
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(url, data, {"Content-Type": "application/json"}, method=method)  # noqa: S310
    for attempt in range(_ATTEMPTS):
        try:
            with urllib.request.urlopen(request, timeout=10) as answer:  # noqa: S310
                text = answer.read()
            break
        except urllib.error.HTTPError as error:
            if error.code != 503 or attempt == _ATTEMPTS - 1:
                raise
            time.sleep(2**attempt)
    return json.loads(text) if text else None
