"""The little of Markdown that tests read: tables and fenced blocks."""

import re


def table(text, first_column):
    """The rows, as lists of cells, of the table whose first column is headed `first_column`."""
    lines = iter(text.splitlines())
    for line in lines:
        if line.startswith("|") and _cells(line)[0] == first_column:
            next(lines)  # | --- | --- |
            rows = []
            for row in lines:
                if not row.startswith("|"):
                    break
                rows.append(_cells(row))
            return rows
    raise LookupError(f"no table with a column {first_column!r}")


def section(text, heading):
    """What stands below `heading`, up to the next heading of the same or a higher level."""
    level = len(heading) - len(heading.lstrip("#"))
    _, found, rest = f"\n{text}".partition(f"\n{heading}\n")
    if not found:
        raise LookupError(f"no heading {heading!r}")
    return re.split(rf"\n#{{1,{level}}} ", rest)[0]


def fenced(text, language):
    """The contents of the blocks fenced as `language`."""
    return re.findall(rf"^```{language}\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)


def code_spans(text):
    """Everything between single backticks."""
    return re.findall(r"`([^`\n]+)`", text)


def _cells(line):
    return [cell.strip() for cell in line.strip().strip("|").split("|")]
