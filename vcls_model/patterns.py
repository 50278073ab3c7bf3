"""The grammar of patterns: what `*`, `**`, `?` and `[a-z]` match in a path, and which names they never mean.

`storage.list_files`, the one place where users' patterns are expanded, documents the rules.
"""

import contextlib
import os
import re
from collections.abc import Iterator, Sequence

# What makes a part of a path a pattern.
_PATTERN_CHARACTERS = "*?["


def is_pattern(part: str) -> bool:
    """Whether a path, or a part of one, holds a character that a pattern gives a meaning to."""
    return any(character in part for character in _PATTERN_CHARACTERS)


def files_below(directory: str, parts: Sequence[str]) -> Iterator[str]:
    """Paths, relative to `directory`, of the files that the parts of a pattern may match: fewer are worth a match."""
    deep = any("**" in part for part in parts)
    hidden = any(part.startswith(".") for part in parts)
    pending = [("", 0, frozenset[tuple[int, int]]())]
    while pending:
        relative, level, ancestors = pending.pop()
        place = os.path.join(directory, relative) or "."
        status = os.stat(place)
        identity = (status.st_dev, status.st_ino)
        if identity in ancestors:  # a symbolic link to a directory that holds it
            continue
        name_expression = None if deep else expression_of(parts[level : level + 1])
        with os.scandir(place) as entries:
            for entry in entries:
                name = os.path.join(relative, entry.name)
                if not entry.is_dir():
                    if deep or level == len(parts) - 1:
                        yield name
                elif name_expression is None:
                    if hidden or not entry.name.startswith("."):
                        pending.append((name, level + 1, ancestors | {identity}))
                elif level < len(parts) - 1 and name_expression.fullmatch(entry.name):
                    pending.append((name, level + 1, ancestors | {identity}))


def is_skipped(relative: str, parts: Sequence[str]) -> bool:
    """Whether a file that the pattern matches is one that no pattern means: hidden, `_SUCCESS`, or a checksum."""
    *directories, name = relative.split("/")
    pattern = parts[-1]
    if any(directory.startswith(".") for directory in directories) and not any(part[0:1] == "." for part in parts):
        return True
    return (
        (name.startswith(".") and not pattern.startswith("."))
        or (name == "_SUCCESS" and pattern != name)
        or (name.endswith(".crc") and not pattern.endswith(".crc"))
    )


def expression_of(parts: Sequence[str]) -> re.Pattern[str]:
    """A regular expression for relative paths that match the parts of a pattern, or are literally equal to them."""
    written = ""
    for index, part in enumerate(parts):
        last = index == len(parts) - 1
        if part == "**":
            written += ".*" if last else "(?:.*/)?"
        else:
            written += f"(?:{_part_expression(part)}|{re.escape(part)})" + ("" if last else "/")
    return re.compile(written, re.DOTALL)


def _part_expression(part: str) -> str:
    written, at = "", 0
    while at < len(part):
        character = part[at]
        if part.startswith("**", at):
            written += ".*"
            at += 2
            continue
        closing = part.find("]", at + (3 if part[at + 1 : at + 2] == "!" else 2)) if character == "[" else -1
        if closing > 0:
            inside = part[at + 1 : closing]
            escaped = re.sub(r"([\\\[\]^&~|])", r"\\\1", inside.removeprefix("!"))
            members = f"[{'^' if inside.startswith('!') else ''}{escaped}]"
            with contextlib.suppress(re.error):  # a range like [z-a]: then these are characters, not a set
                re.compile(members)
                written += f"(?!/){members}"
                at = closing + 1
                continue
        written += {"*": "[^/]*", "?": "[^/]"}.get(character, re.escape(character))
        at += 1
    return written
