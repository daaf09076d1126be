"""The journal: every request that was sent and every answer that came, on the disk before anything is made of it.

Enters: what is sent, answered and failed, a line each. Leaves: after a restart, the answers that are there already and what
has been spent. A request is written down before it is sent, with the most it may cost: one that was on its way when the
process died counts as spent. A last line that was not written whole is taken out.
"""

from __future__ import annotations

import json
import os
import threading
from pathlib import Path
from typing import Any

from luthier.errors import DataError, RunError, SpaceError
from luthier.workshop.asking.request import Answer, Reply


class Journal:
    """Append-only; one process at a time; safe to use from several threads."""

    def __init__(self, path: Path) -> None:
        """Open or begin it. Raises RunError where another process has it, DataError for one that is damaged."""
        import fcntl

        self.path = path
        self.answers: dict[str, Answer] = {}
        self.requests = self.tokens = 0
        """Spent: requests sent, further tries too; tokens, counting the most that those may cost whose cost is not known."""
        self._lock = threading.Lock()
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._file = path.open("a+b")
        except OSError as error:
            raise SpaceError(f"cannot be written: {error.strerror}", where=str(path), remedy="choose another folder") from None
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            self._file.close()
            raise RunError("another process is asking with this journal", where=str(path), remedy="wait for it, or stop it") from None
        self._read()

    def sent(self, key: str, *, most: int) -> None:
        """A request goes out."""
        self._enter({"sent": key, "most": most}, durable=False)

    def replied(self, key: str, reply: Reply, *, most: int) -> None:
        """Its answer is there."""
        self._enter({"reply": key, "text": reply.text, "tokens": reply.tokens, "most": most}, durable=True)

    def failed(self, key: str, why: str, *, tokens: int, most: int) -> None:
        """A try gave nothing, and cost so much."""
        self._enter({"failed": key, "why": why, "tokens": tokens, "most": most}, durable=False)

    def given_up(self, key: str, why: str) -> None:
        """It is not asked again."""
        self._enter({"given_up": key, "why": why}, durable=True)

    def close(self) -> None:
        """Let others have it."""
        self._file.close()

    def _enter(self, line: dict[str, Any], *, durable: bool) -> None:
        data = json.dumps(line, ensure_ascii=True).encode() + b"\n"
        with self._lock:
            try:
                self._file.write(data)
                self._file.flush()
                if durable:
                    os.fsync(self._file.fileno())
            except OSError as error:
                raise SpaceError(f"cannot be written: {error.strerror}", where=str(self.path), remedy="free some space") from error
            self._count(line)

    def _count(self, line: dict[str, Any]) -> None:
        if "sent" in line:
            self.requests += 1
            self.tokens += line["most"]
        elif "given_up" in line:
            self.answers[line["given_up"]] = Answer(None, line["why"])
        else:
            self.tokens += line["tokens"] - line["most"]
            if "reply" in line:
                self.answers[line["reply"]] = Answer(line["text"])

    def _read(self) -> None:
        self._file.seek(0)
        whole = 0
        for number, data in enumerate(self._file, 1):
            if not data.endswith(b"\n"):
                break
            try:
                self._count(json.loads(data))
            except (ValueError, LookupError, TypeError):
                raise DataError(
                    "is no line of a journal", where=f"{self.path}:{number}", remedy="take the line out, or the file away"
                ) from None
            whole += len(data)
        self._file.truncate(whole)
        self._file.seek(0, os.SEEK_END)
