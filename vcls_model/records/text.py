"""From texts to bags of weighted buckets, which is how models read them. numpy only.

A text is decomposed and case-folded (as NFKC with case folding compares texts: é and e with an accent are the same, ﬁ
is fi, Ａ is a, ß is ss), and cut into words: runs of letters and digits. A letter and the marks on it, or a syllable of
Hangul, are one unit. The features of a text are its words and, so that any language works, the n-grams of units within
each word, of which its two boundaries are part; each symbol (an emoji) is a word. Features are hashed to buckets.

A bucket weighs (1 + ln tf) · (ln((1 + n) / (1 + df)) + 1): tf is how often it occurs in the text, df in how many of the
n training texts; the bag is scaled to length 1 (Salton and Buckley 1988, "Term-weighting approaches in automatic text
retrieval"; the smoothed form is scikit-learn's). A token is one bucket of a bag and its weight, as a whole number.

Of a text of each second, such as captions, every line has a bag of its own, and a token also says its line. How many
training texts hold a bucket is counted by whole texts, so that what is said for long is not the more common for it.

The kernels (`kernels.text`) and the transform graph compute the same numbers, bit for bit.
"""

import dataclasses
import functools
import math
import unicodedata
from collections import Counter
from typing import Any

import numpy as np

from vcls_model.records import kernels
from vcls_model.records.encoding import BytesColumn, IntegerColumn
from vcls_model.records.kernels.text import (
    BASE,
    CONTROL,
    CONTROLS,
    CUT,
    DROPPED,
    EMPTY,
    FIRST_POOLED,
    KIND_UNIT,
    MARK,
    NOT_UTF8,
    POINT,
    POOL_UNIT,
    PRIME,
    SEPARATOR,
    WEIGHT_LIMIT,
    WORD_UNITS,
)
from vcls_model.records.text_options import TextOptions

# Bytes that are read of a text, or of a line: a title is not a book.
MOST_BYTES = 1 << 16
# A token of a text of each second is line << LINE_SHIFT | token.
LINE_SHIFT = 31
# How finely ln is rounded: rarities to 1/256, frequencies to 1/32.
_RARITY_STEPS, _FREQUENCY_STEPS = 256, 32
_MOST_COUNTED = 255
# From here on a code point is unassigned, private, a tag or a variation selector.
_END_OF_LETTERS = 0x323B0
# Han characters that stand for themselves.
_HAN = (range(0x3400, 0x4DC0), range(0x4E00, 0xA000), range(0x20000, 0x2F800), range(0x30000, _END_OF_LETTERS))
# Vowels and final consonants of Hangul follow what begins their syllable.
_HANGUL_MARKS = (range(0x1160, 0x1200), range(0xD7B0, 0xD7FC))
# Selectors of glyphs, fillers, joiners: they are not seen, and say nothing.
_UNSEEN = frozenset(
    [0x34F, 0x115F, 0x1160, 0x180B, 0x180C, 0x180D, 0x180F, 0x200C, 0x200D, 0x3164, 0xFFA0, *range(0xFE00, 0xFE10)]
)
_REPLACEMENT = 0xFFFD
# Categories of code points that are not characters.
_NOTHING = frozenset(["Cn", "Co", "Cs"])
_NOTES = (
    (EMPTY, "texts_empty"),
    (NOT_UTF8, "texts_not_utf8"),
    (CUT, "texts_cut"),
    (CONTROLS, "texts_with_control_characters"),
)


def weight_steps(buckets: int) -> int:
    """How finely the weight of a token is given, so that one below 2^31 holds bucket and weight.

    A token t is bucket t // steps with weight (t % steps) / (steps - 1).
    """
    return (1 << 31) // buckets


@dataclasses.dataclass(frozen=True)
class CharacterTables:
    """What each code point stands for.

    Attributes:
        pages: int32 (4352,): of each 256 code points, where theirs are among the slots.
        slots: int32 (pages · 256,): a kind (`kernels.text.DROPPED`, …), or a place in the pool.
        pool: int32: kinds and code points.
        powers: int64 (WORD_UNITS,): of the point at which hashes are polynomials.
        frequencies: int64 (256,): what a bucket weighs that occurs so often in a text.
    """

    pages: np.ndarray
    slots: np.ndarray
    pool: np.ndarray
    powers: np.ndarray
    frequencies: np.ndarray


@functools.cache
def character_tables() -> CharacterTables:
    """The tables for Python's version of Unicode; made once per process, in some tenths of a second."""
    slots = np.full(0x110000, SEPARATOR, np.int32)
    for han in _HAN:
        slots[han.start : han.stop] = BASE
    slots[0xE0000:0xE1000] = DROPPED
    pool: list[int] = []
    places: dict[tuple[int, ...], int] = {}
    for point in np.flatnonzero(slots[:_END_OF_LETTERS] != BASE).tolist():
        character = chr(point)
        if unicodedata.category(character) in _NOTHING:
            continue
        folded = [point] if _stands_for_itself(character) else [*map(ord, _folded(character))]
        entries = tuple(entry for each in folded for entry in _entries(each))
        if folded == [point] and len(entries) <= 1:
            slots[point] = _kind(point)
            continue
        if entries not in places:
            places[entries] = FIRST_POOLED + len(pool) * POOL_UNIT + len(entries)
            pool += entries
        slots[point] = places[entries]
    pages: dict[bytes, int] = {}
    where = [pages.setdefault(page.tobytes(), len(pages)) for page in slots.reshape(-1, 256)]
    powers = [1]
    while len(powers) < WORD_UNITS:
        powers.append(powers[-1] * POINT % PRIME)
    counts = range(_MOST_COUNTED + 1)
    frequencies = [0, *(round(_FREQUENCY_STEPS * (1 + math.log(count))) for count in counts[1:])]
    return CharacterTables(
        np.array(where, np.int32),
        np.frombuffer(bytearray(b"".join(pages)), np.int32),
        np.array(pool, np.int32),
        np.array(powers, np.int64),
        np.array(frequencies, np.int64),
    )


def _folded(text: str) -> str:
    """Decomposed and without case, until nothing changes."""
    while True:
        folded = unicodedata.normalize("NFKD", unicodedata.normalize("NFKD", text).casefold())
        if folded == text:
            return folded
        text = folded


def _stands_for_itself(character: str) -> bool:
    """Whether folding is sure to change nothing; syllables of Hangul, which have no entry, fall apart by rule."""
    plain = character.casefold() == character and not unicodedata.decomposition(character)
    return plain and not "\uac00" <= character <= "\ud7a3"


def _kind(point: int) -> int:
    category = unicodedata.category(chr(point))
    if point in _UNSEEN:
        return DROPPED
    if category[0] in "LN":
        return MARK if any(point in marks for marks in _HANGUL_MARKS) else BASE
    if category[0] == "M":
        return MARK
    return CONTROL if category == "Cf" or (category == "Cc" and not chr(point).isspace()) else SEPARATOR


def _entries(point: int) -> list[int]:
    """What a decomposed code point becomes in the pool: itself with its kind; a symbol as a word of its own."""
    kind = _kind(point)
    if unicodedata.category(chr(point)) in ("So", "Sc") and point != _REPLACEMENT:
        return [SEPARATOR * KIND_UNIT, BASE * KIND_UNIT + point, SEPARATOR * KIND_UNIT]
    return [kind * KIND_UNIT + point] if kind in (SEPARATOR, BASE, MARK) else []


@dataclasses.dataclass(frozen=True)
class DocumentCounts:
    """In how many of the training texts each bucket occurs.

    Attributes:
        count: n, all training records, with a text or without.
        documents: int64 (buckets,).
    """

    count: int
    documents: np.ndarray

    def weights(self, options: TextOptions) -> np.ndarray:
        """What the rarity of each bucket weighs, int64 (buckets,); 0 below `min_count`."""
        rarity = np.log((1 + self.count) / (1 + self.documents)) + 1
        weights = np.rint(_RARITY_STEPS * rarity).astype(np.int64)
        most = (WEIGHT_LIMIT - 1) // int(character_tables().frequencies[-1])
        return np.where(self.documents < options.min_count, 0, np.clip(weights, 1, most))

    def to_dict(self) -> dict[str, Any]:
        """A JSON-able description that `from_dict` reads back exactly."""
        return {"count": self.count, "documents": self.documents.tolist()}

    @classmethod
    def from_dict(cls, value: dict[str, Any]) -> "DocumentCounts":
        """Reads what `to_dict` wrote."""
        return cls(value["count"], np.array(value["documents"], np.int64))


class Tokeniser:
    """Texts -> tokens.

    Args:
        options: how.
        weights: int64 (buckets,), see `DocumentCounts.weights`; without them it counts only.
        lines: the texts are texts of seconds.

    Raises:
        RuntimeError: this Python knows another version of Unicode than the one that the texts were counted with.
    """

    def __init__(self, options: TextOptions, weights: np.ndarray | None = None, *, lines: bool = False) -> None:
        if options.unicode != unicodedata.unidata_version:
            raise RuntimeError(
                f"the texts were counted with Unicode {options.unicode}, and this Python knows "
                f"{unicodedata.unidata_version}: all workers must have the launcher's Python"
            )
        self._options = options.of_lines() if lines else options
        self._weights = weights
        self._lines = lines
        self._tables = character_tables()

    def count_documents(self, texts: BytesColumn, documents: np.ndarray) -> None:
        """Adds 1 to `documents`, int64 (buckets,), for each text in which a bucket occurs."""
        kernels.count_documents(*self._arguments(texts), documents)

    def tokens(self, texts: BytesColumn) -> tuple[IntegerColumn, Counter]:
        """The tokens of each text, ascending, and how many texts were empty, not UTF-8, cut or had control characters.

        Example:
            >>> weights = DocumentCounts(1, np.ones(16, np.int64)).weights(TextOptions(16, None, min_count=1))
            >>> column, notes = Tokeniser(TextOptions(16, None), weights).tokens(BytesColumn.of([b"One", b""]))
            >>> column.counts.tolist(), dict(notes)
            ([1, 0], {'texts_empty': 1})
        """
        if self._lines:
            return self._of_lines(texts)
        tokens, sizes, flags = self._bags(texts)
        column = IntegerColumn(tokens.reshape(-1), np.arange(len(texts)) * self._options.tokens, sizes)
        return column, _notes(flags)

    def _of_lines(self, texts: BytesColumn) -> tuple[IntegerColumn, Counter]:
        """The tokens of the lines of each text, by line."""
        counts = np.empty(len(texts), np.int64)
        kernels.count_lines(texts.data, texts.begins, texts.lengths, counts)
        firsts = np.cumsum(counts) - counts
        begins, lengths = np.empty(int(counts.sum()), np.int64), np.empty(int(counts.sum()), np.int64)
        kernels.split_lines(texts.data, texts.begins, texts.lengths, begins, lengths)
        tokens, sizes, flags = self._bags(BytesColumn(texts.data, begins, lengths))
        numbers = np.arange(len(begins)) - np.repeat(firsts, counts)
        values = (tokens + (numbers << LINE_SHIFT)[:, np.newaxis])[np.arange(tokens.shape[1]) < sizes[:, np.newaxis]]
        if not len(texts):
            return IntegerColumn.of_lengths(values, counts), Counter()
        # A video is empty if all its lines are, and has the other marks of any.
        marks = np.bitwise_or.reduceat(flags & ~EMPTY, firsts) | np.bitwise_and.reduceat(flags & EMPTY, firsts)
        return IntegerColumn.of_lengths(values, np.add.reduceat(sizes, firsts)), _notes(marks)

    def _bags(self, texts: BytesColumn) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Tokens int64 (B, L), how many each text has, and its flags, int64 (B,) each."""
        assert self._weights is not None
        count = len(texts)
        tokens = np.empty((count, self._options.tokens), np.int64)
        sizes, flags = np.empty(count, np.int64), np.empty(count, np.int64)
        steps = weight_steps(self._options.buckets)
        kernels.make_tokens(
            *self._arguments(texts), self._tables.frequencies, self._weights, steps, tokens, sizes, flags
        )
        return tokens, sizes, flags

    def _arguments(self, texts: BytesColumn) -> tuple[Any, ...]:
        tables = self._tables
        shortest, longest = self._options.ngrams or (1, 0)
        return (
            texts.data,
            np.ascontiguousarray(texts.begins),
            np.ascontiguousarray(texts.lengths),
            MOST_BYTES,
            tables.pages,
            tables.slots,
            tables.pool,
            tables.powers,
            shortest,
            longest,
        )


def _notes(flags: np.ndarray) -> Counter:
    """How many texts have each mark, for those that some have."""
    notes = Counter({name: int(np.count_nonzero(flags & bit)) for bit, name in _NOTES})
    return Counter({name: number for name, number in notes.items() if number})
