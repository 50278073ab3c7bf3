"""Fonts for names in any script: installed ones that have the characters which the figures' own font lacks."""

import functools
import re
import sys
from collections.abc import Iterable
from warnings import WarningMessage

# Has a box for every character, and a meaning for none.
_PLACEHOLDERS = "Last Resort"
_NAMED = 8
_reported: set[str] = set()


def missing_characters(warnings: Iterable[WarningMessage]) -> set[str]:
    """The characters that matplotlib could not draw, as its warnings have them."""
    codes = (re.match(r"Glyph (\d+) ", str(warning.message)) for warning in warnings)
    return {chr(int(code.group(1))) for code in codes if code}


def families_with(characters: set[str]) -> list[str]:
    """Installed font families that together have as many of the characters as can be, the one with most first."""
    chosen: list[str] = []
    left = {ord(character) for character in characters}
    while left:
        family, has = max(_installed(), key=lambda font: len(font[1] & left), default=("", frozenset()))
        if not has & left:
            break
        chosen.append(family)
        left -= has
    return chosen


def report_missing(characters: set[str]) -> None:
    """Says on stderr, once per process, that no installed font has some characters."""
    if _reported or not characters:
        return
    _reported.update(characters)
    named = " ".join(sorted(character for character in characters if character.isprintable())[:_NAMED])
    print(
        f"warning: no installed font has some characters of the names ({named}): the PNG figures show boxes in their "
        "place; install a font that has them, such as one of the Noto family",
        file=sys.stderr,
    )


@functools.cache
def _installed() -> list[tuple[str, frozenset[int]]]:
    """(family, code points it can draw) of every installed font that is upright."""
    from matplotlib import font_manager, ft2font

    fonts = []
    for entry in font_manager.fontManager.ttflist:
        if entry.style == "normal" and not entry.name.startswith(_PLACEHOLDERS):
            try:
                font = ft2font.FT2Font(entry.fname)
                font.set_size(10, 72)
                codes = frozenset(font.get_charmap())
                font.load_char(min(codes))
            except (RuntimeError, OSError, ValueError):  # bitmaps, or a file that is gone
                continue
            fonts.append((entry.name, codes))
    return fonts
