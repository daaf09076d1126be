"""One JSON request to one address, within a deadline.

Enters: an address, a value. Leaves: the value that came back, or a Failure that says whether trying again may help. Nothing is followed:
not a redirection, not a proxy of the environment.
"""

from __future__ import annotations

import http.client
import json
import os
import socket
import threading
from collections.abc import Mapping
from datetime import datetime
from email.utils import parsedate_to_datetime
from typing import Any
from urllib.parse import urlsplit

MOST = 1 << 22
"""Bytes of an answer that are read."""
PASSING = frozenset({408, 425, 429, 500, 502, 503, 504})
"""Statuses of failures that may pass."""
LONGEST = 86_400
"""Seconds to wait that are believed."""


class Failure(Exception):
    """A request that gave nothing. `passing`: trying again may help.

    `status` is what was answered, None where nothing was; `after` the seconds that the other side asks to wait.
    """

    def __init__(self, message: str, *, passing: bool = False, status: int | None = None, after: float = 0.0) -> None:
        super().__init__(message)
        self.passing, self.status, self.after = passing, status, after


def bearer(variable: str | None) -> dict[str, str]:
    """The header with the token that an environment variable holds; none without a variable. Raises KeyError where it holds none."""
    if variable is None:
        return {}
    token = os.environ.get(variable, "")
    if not token:
        raise KeyError(variable)
    return {"Authorization": f"Bearer {token}"}


def post(url: str, value: Any, *, headers: Mapping[str, str], timeout: float, who: str = "the judge") -> Any:
    """What the address answers, as JSON. `timeout` is of the whole, in seconds; `who` is what messages call the other side.

    Raises Failure, whose text holds nothing secret.
    """
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
        reason = f"{who} took longer than {timeout:g} s" if late else f"{who} cannot be asked: {type(error).__name__}"
        raise Failure(reason, passing=True) from None
    finally:
        watch.cancel()
        connection.close()
    if over.is_set():
        raise Failure(f"{who} took longer than {timeout:g} s", passing=True)
    if answer.status != 200:
        status = answer.status
        wait = _seconds(answer.headers.get("Retry-After"))
        raise Failure(f"{who} answered with HTTP status {status}", passing=status in PASSING, status=status, after=wait)
    if len(text) > MOST:
        raise Failure(f"{who}'s answer is longer than {MOST >> 20} MiB", status=200)
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        raise Failure(f"{who}'s answer is not JSON", status=200) from None


def _seconds(text: str | None) -> float:
    """What Retry-After asks for, in seconds or as a date (RFC 9110, 10.2.3); 0 where it is neither."""
    text = text or ""
    try:
        wait = float(text)
    except ValueError:
        try:
            then = parsedate_to_datetime(text)
            wait = (then - datetime.now(then.tzinfo)).total_seconds()
        except (ValueError, TypeError):
            return 0.0
    return min(wait, float(LONGEST)) if wait > 0 else 0.0


def _end(connection: http.client.HTTPConnection, over: threading.Event) -> None:
    """Cut a connection on which time is over, whatever is being read from it."""
    over.set()
    if connection.sock is not None:
        try:
            connection.sock.shutdown(socket.SHUT_RDWR)
        except OSError:
            return
