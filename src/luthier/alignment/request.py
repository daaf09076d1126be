"""One JSON request to one address, within a deadline.

Enters: an address, a value. Leaves: the value that came back, or a Failure that says whether trying again may help. Nothing is followed:
not a redirection, not a proxy of the environment.
"""

from __future__ import annotations

import http.client
import json
import socket
import threading
from collections.abc import Mapping
from typing import Any
from urllib.parse import urlsplit

MOST = 1 << 22
"""Bytes of an answer that are read."""
PASSING = frozenset({408, 425, 429, 500, 502, 503, 504})
"""Statuses of failures that may pass."""


class Failure(Exception):
    """A request that gave nothing. `passing`: trying again may help."""

    def __init__(self, message: str, *, passing: bool = False) -> None:
        super().__init__(message)
        self.passing = passing


def post(url: str, value: Any, *, headers: Mapping[str, str], timeout: float) -> Any:
    """What the address answers, as JSON. `timeout` is of the whole, in seconds. Raises Failure, whose text holds nothing secret."""
    parts = urlsplit(url)
    kind = http.client.HTTPSConnection if parts.scheme == "https" else http.client.HTTPConnection
    connection = kind(parts.hostname or "", parts.port, timeout=timeout)
    target = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
    over = threading.Event()
    watch = threading.Timer(timeout, _end, (connection, over))
    watch.daemon = True
    watch.start()
    try:
        body = json.dumps(value, default=str).encode()
        connection.request("POST", target, body, {"Content-Type": "application/json", "Accept": "application/json", **headers})
        answer = connection.getresponse()
        text = answer.read(MOST + 1)
    except (OSError, http.client.HTTPException, ValueError) as error:
        late = over.is_set() or isinstance(error, TimeoutError)
        reason = f"the judge took longer than {timeout:g} s" if late else f"the judge cannot be asked: {type(error).__name__}"
        raise Failure(reason, passing=True) from None
    finally:
        watch.cancel()
        connection.close()
    if over.is_set():
        raise Failure(f"the judge took longer than {timeout:g} s", passing=True)
    if answer.status != 200:
        raise Failure(f"the judge answered with HTTP status {answer.status}", passing=answer.status in PASSING)
    if len(text) > MOST:
        raise Failure(f"the judge's answer is longer than {MOST >> 20} MiB")
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        raise Failure("the judge's answer is not JSON") from None


def _end(connection: http.client.HTTPConnection, over: threading.Event) -> None:
    """Cut a connection on which time is over, whatever is being read from it."""
    over.set()
    if connection.sock is not None:
        try:
            connection.sock.shutdown(socket.SHUT_RDWR)
        except OSError:
            return
