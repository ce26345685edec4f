"""CSV, read from spreadsheets of every country and written for them: the one reader and the one writer.

Reading never guesses which cell belongs to which column. A row with more cells than the header, or without
one that is needed, is refused by its number. Writing leaves no text that a spreadsheet would evaluate, and
`plain_text` gives back exactly what was written.
"""

from __future__ import annotations

import codecs
import csv
import io
import re
import unicodedata
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from edge.errors import UserError
from edge.files import write_whole

SEPARATORS = {",": "comma", ";": "semicolon", "\t": "tab", "|": "vertical bar"}
LARGEST_CELL = 1_000_000  # characters, more than any model's context takes
DECLARED = re.compile(r"sep=([^\w\s\"']|\t)(?:\r\n?|\n)", re.IGNORECASE)  # Excel's first line
MARKS = (  # byte order marks, the longer ones first
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)
WORKBOOKS = (b"PK\x03\x04", b"\xd0\xcf\x11\xe0")  # .xlsx and .ods, .xls
# A spreadsheet evaluates cells that begin with these (OWASP, CSV Injection), also in full width or behind
# spaces.
SIGNS = "-=+@\uff1d\uff0b\uff0d\uff20"
FORMULA = (*SIGNS, "\t", "\r", "\n")
QUOTED = re.compile(r'[",\t\r\n]|^\s|\s$')
NUL = "\u2400"
MARK = "'"  # put before a text, it makes a spreadsheet take it for text
BEHIND = f'[{MARK}" \u00a0]*'
FIRST = re.compile(rf"\A(?={BEHIND}[{SIGNS}\t\r\n])")
MARKED_FIRST = re.compile(rf"\A{MARK}(?={BEHIND}[{SIGNS}\t\r\n])")
# Where semicolons or tabs separate cells, a program that opens a file with commas begins a cell here.
INNER = re.compile(rf"(?<=[;\t\r\n])(?={BEHIND}[{SIGNS}])")
MARKED_INNER = re.compile(rf"(?<=[;\t\r\n]){MARK}(?={BEHIND}[{SIGNS}])")

# Reading


class Row(NamedTuple):
    """A row's cells by column, without white space around them.

    `number` counts rows from 1 without the header and without blank ones; `line` is where it begins in the
    file, from 1.
    """

    number: int
    line: int
    cells: dict[str, str]


def read_csv(
    path: Path, columns: Sequence[str], optional: Sequence[str] = (), *, needed: Sequence[str] | None = None
) -> list[Row]:
    """The rows of a CSV file whose header has `columns`; cells of `optional` are "" where it lacks them,
    further columns are ignored.

    The header's names decide between comma, semicolon, tab and vertical bar, whatever their case. Blank rows
    are left out. UTF-8 and UTF-16 are read. A row may end early, but not before the cells of `needed` (by
    default `columns`). Raises UserError, naming row and mend, for a row with surplus or missing cells, an
    open quote, a NUL, or a cell above LARGEST_CELL characters; also for a file of another kind or encoding,
    and for columns that are missing or there twice. Raises OSError where the file cannot be read.
    """
    text, start = declared_separator(decoded(path, path.read_bytes()))
    separator = start.separator or separator_of(text, (*columns, *optional))
    records = records_of(path, text, separator, start.lines)
    if not records:
        raise UserError(f"{path} is empty: a CSV with the columns {', '.join(columns)} is needed")
    header = records[0].cells
    places = places_of(path, header, columns, optional)
    rows = []
    for number, (line, cells) in enumerate(records[1:], 1):
        where = f"data row {number} (line {line})"
        if len(cells) > len(header):
            raise UserError(
                f"{path} has {len(cells)} cells under {len(header)} columns in {where}: "
                f"put quotes around a cell that holds a {SEPARATORS.get(separator, separator)}"
            )
        for name in columns if needed is None else needed:
            if places[name] >= len(cells):
                raise UserError(
                    f"{path} has no cell for {name} in {where}: "
                    "write an empty one, and see that the row is not cut"
                )
        known = {name: cells[place].strip() for name, place in places.items() if place < len(cells)}
        if any("\0" in cell for cell in known.values()):
            raise UserError(f"{path} has a NUL character in {where}: save it again as UTF-8")
        rows.append(Row(number, line, dict.fromkeys((*columns, *optional), "") | known))
    return rows


class Record(NamedTuple):
    """The cells of one record, and the line of the file in which it begins, from 1."""

    line: int
    cells: list[str]


def records_of(path: Path, text: str, separator: str, skipped: int) -> list[Record]:
    """The records of a CSV that are not blank; `skipped` lines stood before the text."""
    records: list[Record] = []
    with cell_limit():
        reader = csv.reader(io.StringIO(text, newline=""), delimiter=separator, strict=True)
        while True:
            line = reader.line_num + 1 + skipped
            try:
                cells = next(reader, None)
            except csv.Error as error:
                raise UserError(f"{path} {complaint(error, line)}") from error
            if cells is None:
                return records
            if not all(map(is_blank, cells)):
                records.append(Record(line, cells))


class Start(NamedTuple):
    """What a first line such as "sep=;" says: the separator, "" without one, and its number of lines."""

    separator: str
    lines: int


def declared_separator(text: str) -> tuple[str, Start]:
    """The text without a first line that names the separator, and what that line says."""
    declared = DECLARED.match(text)
    if declared is None:
        return text, Start("", 0)
    return text[declared.end() :], Start(declared[1], 1)


def decoded(path: Path, data: bytes) -> str:
    """The text of a file in UTF-8, or in UTF-16 as spreadsheets save it; raises UserError for others."""
    if data.startswith(WORKBOOKS):
        raise UserError(f'{path} is a workbook, no CSV: save it as "CSV UTF-8"')
    encoding = next((name for mark, name in MARKS if data.startswith(mark)), "utf-8")
    if encoding == "utf-8" and len(data) > 1 and (data[0] == 0) != (data[1] == 0):
        encoding = "utf-16-le" if data[1] == 0 else "utf-16-be"
    try:
        return data.decode(encoding)
    except UnicodeDecodeError as error:
        line = data[: error.start].count(b"\n") + 1
        name = encoding.removesuffix("-sig").upper()
        raise UserError(
            f'{path} is not {name} (line {line}, byte {error.start}): save it again as UTF-8 ("CSV UTF-8")'
        ) from error


def separator_of(text: str, names: Sequence[str]) -> str:
    """The separator with which the header has most of these names; a comma where none is better."""
    wanted = {spelled(name) for name in names}

    def known(separator: str) -> int:
        reader = csv.reader(io.StringIO(text, newline=""), delimiter=separator, strict=True)
        try:
            header = next((cells for cells in reader if any(not is_blank(cell) for cell in cells)), [])
        except csv.Error:
            return 0
        return len(wanted.intersection(map(spelled, header)))

    return max(SEPARATORS, key=known)


def places_of(
    path: Path, header: Sequence[str], columns: Sequence[str], optional: Sequence[str]
) -> dict[str, int]:
    """Maps each known column to its place; raises UserError for one that is missing or there twice."""
    places = {}
    for name in (*columns, *optional):
        exact = [place for place, cell in enumerate(header) if cell.strip() == name]
        alike = exact or [place for place, cell in enumerate(header) if spelled(cell) == spelled(name)]
        if len(alike) > 1:
            raise UserError(f"{path} has the column {name} {len(alike)} times: keep one of them")
        if alike:
            places[name] = alike[0]
    if missing := [name for name in columns if name not in places]:
        raise UserError(
            f"{path} lacks the column {' and '.join(missing)}: the columns needed are {', '.join(columns)}"
        )
    return places


def spelled(name: str) -> str:
    """A column's name without regard to case and white space."""
    return " ".join(name.replace("\ufeff", "").split()).casefold()


def is_blank(text: str) -> bool:
    """Whether a text has nothing to be seen: white space, format and control characters alone."""
    return all(c.isspace() or unicodedata.category(c) in ("Cc", "Cf") for c in text)


def complaint(error: csv.Error, line: int) -> str:
    """What is wrong with the row that begins in this line, and its mend."""
    if "field limit" in str(error):
        return (
            f"has a cell of more than {LARGEST_CELL:,} characters in the row of line {line}: "
            "shorten it, or close its quotes"
        )
    return (
        f"is not a well-formed CSV (in the row that begins in line {line} a quote is not closed, or one "
        "inside a cell is not doubled): mend the row, or save it again as CSV"
    )


@contextmanager
def cell_limit() -> Iterator[None]:
    """Sets the csv module's limit to LARGEST_CELL: the program around us keeps its own."""
    before = csv.field_size_limit(LARGEST_CELL)
    try:
        yield
    finally:
        csv.field_size_limit(before)


# Writing


def write_csv(path: Path, names: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    """Writes a CSV file in UTF-8, whole or not at all; see csv_text."""
    text = csv_text(names, rows)
    write_whole(path, lambda temporary: temporary.write_bytes(text.encode("utf-8", "replace")))


def csv_text(names: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """The text of a CSV: numbers stay numbers, None is an empty cell, texts are safe from evaluation.

    A NUL, at which some programs cut a text, is written as its picture.
    """
    return "".join(f"{','.join(map(cell_text, row))}\n" for row in (names, *rows))


def cell_text(value: object) -> str:
    """A cell as it is written, quoted where it has to be."""
    if value is None:
        return ""
    if isinstance(value, bool):
        return "true" if value else "false"
    text = safe_text(value).replace("\0", NUL) if isinstance(value, str) else str(value)
    return '"' + text.replace('"', '""') + '"' if QUOTED.search(text) else text


def safe_text(text: str) -> str:
    """The text, with a mark before whatever a spreadsheet would take for a formula."""
    return INNER.sub(MARK, FIRST.sub(MARK, text))


def plain_text(cell: str) -> str:
    """The text of which safe_text made this cell."""
    return MARKED_INNER.sub("", MARKED_FIRST.sub("", cell))
