"""Tables that can be read but once, or slowly: spreadsheets and the answers of databases. They are written down first.

Leaves: a file of JSON lines `[number, row]` in the system's temporary folder, gone when it is closed. A database is asked
within a transaction that is rolled back, so that nothing in it changes.
"""

from __future__ import annotations

import base64
import datetime
import decimal
import json
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import IO, Any

from luthier.data.rows import Quarantined, Row, header_of
from luthier.data.sources.kinds import MOST_COLUMNS, too_many
from luthier.data.sources.opened import Limits
from luthier.errors import DataError, SpaceError
from luthier.registry import require


class Spool:
    """Rows written down, to be read as often as needed."""

    def __init__(self, rows: Iterable[tuple[int, dict[str, Any]]], name: str) -> None:
        self.name = name
        self._file: IO[str] = tempfile.TemporaryFile("w+", encoding="utf-8")  # noqa: SIM115  (lives as long as this)
        try:
            for number, row in rows:
                self._file.write(json.dumps([number, row], ensure_ascii=True, default=plain) + "\n")
            self._file.flush()
        except OSError as error:
            self._file.close()
            raise SpaceError(
                f"cannot be written: {error.strerror or error}", where=tempfile.gettempdir(), remedy="free some space"
            ) from None
        except BaseException:
            self._file.close()
            raise

    def bytes(self) -> Iterator[bytes]:
        """What was written, for its hash."""
        self._file.seek(0)
        while piece := self._file.read(1 << 20):
            yield piece.encode()

    def rows(self) -> Iterator[Row | Quarantined]:
        """The rows, as often as wanted."""
        self._file.seek(0)
        for line in iter(self._file.readline, ""):
            number, values = json.loads(line)
            yield Row(values, self.name, number)

    def close(self) -> None:
        self._file.close()


def plain(value: Any) -> Any:
    """Values that JSON has not: moments as ISO 8601, decimals as their digits, bytes as base64."""
    if isinstance(value, (datetime.date, datetime.time)):
        return value.isoformat()
    if isinstance(value, datetime.timedelta):
        return value.total_seconds()
    if isinstance(value, decimal.Decimal):
        return str(value)
    if isinstance(value, (bytes, memoryview)):
        return base64.b64encode(bytes(value)).decode()
    return str(value)


def spreadsheet(path: Path, *, sheet: str | None) -> Iterator[tuple[int, dict[str, Any]]]:
    """The rows under the header of a sheet (the first where none is named), with their numbers; formulas as their values."""
    excel = require("openpyxl", extra="data", purpose="reading Excel files")
    _refuse_a_bomb(path)
    try:
        book = excel.load_workbook(path, read_only=True, data_only=True)
    except Exception as error:  # openpyxl lets its readers' errors of many kinds through
        raise DataError(f"is not a readable Excel file: {error}", where=str(path), remedy="save it anew as .xlsx, or as CSV") from None
    try:
        if sheet is not None and sheet not in book.sheetnames:
            raise DataError(f"has no sheet {sheet!r}", where=str(path), remedy=f"it has {', '.join(book.sheetnames)}")
        yield from _cells(book[sheet] if sheet is not None else book[book.sheetnames[0]], path)
    finally:
        book.close()


def _cells(sheet: Any, path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    header: list[str] | None = None
    for number, cells in enumerate(sheet.iter_rows(values_only=True), 1):
        if all(c is None for c in cells):
            continue
        if header is None:
            last = max(i for i, c in enumerate(cells) if c is not None) + 1
            if last > MOST_COLUMNS:
                raise too_many(last, str(path))
            header = header_of([f"column{i}" if c is None else str(c) for i, c in enumerate(cells[:last], 1)], f"{path}:{number}")
            continue
        values = [*cells[: len(header)], *[None] * (len(header) - len(cells))]
        beyond = {f"column{i}": c for i, c in enumerate(cells[len(header) :], len(header) + 1) if c is not None}
        yield number, dict(zip(header, values, strict=True)) | beyond


def _refuse_a_bomb(path: Path) -> None:
    """An .xlsx is a zip archive, and openpyxl unpacks it without a limit."""
    import zipfile

    limits = Limits()
    try:
        with zipfile.ZipFile(path) as archive:
            size = sum(i.file_size for i in archive.infolist())
    except FileNotFoundError:
        raise DataError(
            "no such file", where=str(path), remedy="check the path; in a recipe, data.train, data.validation and data.test"
        ) from None
    except (zipfile.BadZipFile, OSError) as error:
        raise DataError(f"is not a readable Excel file: {error}", where=str(path), remedy="save it anew as .xlsx, or as CSV") from None
    packed = path.stat().st_size
    if size > limits.grace and size > limits.ratio * packed:
        raise DataError(
            f"unpacks to {size >> 20} MiB from {packed >> 10} KiB: it looks like a zip bomb", where=str(path), remedy="save it as CSV"
        )


def query(url: str, statement: str) -> Iterator[tuple[int, dict[str, Any]]]:
    """The rows that a database answers, numbered from 1. Raises DataError where it cannot be asked, without the URL's password."""
    alchemy = require("sqlalchemy", extra="data", purpose="asking a database")
    shown = url
    try:
        address = alchemy.engine.make_url(url)
        shown = address.render_as_string(hide_password=True)
        _no_new_database(address)
        engine = alchemy.create_engine(address)
        with engine.connect() as connection:
            try:
                answer = connection.execution_options(stream_results=True).execute(alchemy.text(statement))
                if not answer.returns_rows:
                    raise DataError("the statement answers no rows", where=shown, remedy="give a SELECT")
                names = header_of(list(answer.keys()), "the query")
                for number, row in enumerate(answer, 1):
                    yield number, dict(zip(names, row, strict=True))
            finally:
                connection.rollback()
    except (alchemy.exc.SQLAlchemyError, ImportError) as error:
        cause = str(getattr(error, "orig", None) or error).splitlines()[0]
        raise DataError(f"cannot be asked: {cause[:200]}", where=shown, remedy="check the address, the driver and the query") from None


def _no_new_database(address: Any) -> None:
    """SQLite makes a file that is not there; a reader must not."""
    name = address.database
    if address.get_backend_name() == "sqlite" and name and name != ":memory:" and not Path(name).is_file():
        raise DataError("no such database file", where=str(name), remedy="check the path: sqlite:///folder/file.db")
