"""From the UTF-8 of texts to the buckets of their words and character n-grams.

All arithmetic is on whole numbers below 2**63, or rounded as IEEE 754 says, so that the transform graph, which does the
same in TensorFlow, gives the same numbers: see `vcls_model.records.text` for what is computed.
"""

import numpy as np

from vcls_model.compiled import njit_of

njit = njit_of(__package__)

# What a table says of a code point: to be left out, an end of a word, a character that begins a unit, one that belongs
# to the unit before, to be left out and counted. From FIRST_POOLED on: where in the pool what it stands for begins.
DROPPED, SEPARATOR, BASE, MARK, CONTROL, FIRST_POOLED = 0, 1, 2, 3, 4, 8
# An entry of the pool is kind * KIND_UNIT + code point. A place in it is begin * POOL_UNIT + entries.
KIND_UNIT, POOL_UNIT = 1 << 21, 32
# Hashes are polynomials in a fixed number modulo the prime 2**31 - 1, on numbers that depend on a character and on
# whether it is a mark: with these factors any product is below 2**62.
PRIME = (1 << 31) - 1
BASE_FACTOR, BASE_SHIFT = 1_640_531_527, 974_593
MARK_FACTOR, MARK_SHIFT = 1_013_904_223, 366_103
BOUNDARY, POINT, SALT, SPREAD = 1_812_433_253, 1_103_515_245, 522_133_279, 1_664_525_069
LINE_END = 10
# A word is hashed up to this many units.
WORD_UNITS = 64
# Buckets and weights are below these.
BUCKET_LIMIT, WEIGHT_LIMIT = 1 << 20, 1 << 21
# What `flags` say of a text.
NOT_UTF8, CUT, CONTROLS, EMPTY = 1, 2, 4, 8


@njit
def _continues(data, at, end, lowest, highest):
    return at < end and data[at] >= lowest and data[at] <= highest


@njit
def _next_point(data, at, end):
    """(code point, where the next begins) of UTF-8; -1 for the longest part of a sequence that cannot be one.

    Ranges: The Unicode Standard, table 3-7, "Well-Formed UTF-8 Byte Sequences".
    """
    first = np.int64(data[at])
    if first < 0x80:
        return first, at + 1
    lowest, highest = 0x80, 0xBF
    if 0xC2 <= first <= 0xDF:
        more, point = 1, first & 0x1F
    elif 0xE0 <= first <= 0xEF:
        more, point = 2, first & 0x0F
        if first == 0xE0:
            lowest = 0xA0
        elif first == 0xED:
            highest = 0x9F
    elif 0xF0 <= first <= 0xF4:
        more, point = 3, first & 0x07
        if first == 0xF0:
            lowest = 0x90
        elif first == 0xF4:
            highest = 0x8F
    else:
        return np.int64(-1), at + 1
    at += 1
    for _ in range(more):
        if not _continues(data, at, end, lowest, highest):
            return np.int64(-1), at
        point = (point << 6) | (np.int64(data[at]) & 0x3F)
        lowest, highest = 0x80, 0xBF
        at += 1
    return point, at


@njit
def _modulo_prime(value):
    """`value` % PRIME of 0 <= value < 2**62; as 2**31 is 1 modulo PRIME, without a division."""
    value = (value & PRIME) + (value >> 31)
    value = (value & PRIME) + (value >> 31)
    return value - PRIME if value >= PRIME else value


@njit
def _units(data, begin, end, pages, slots, pool, values, ends):
    """Units of a text, a boundary before and after each word: (number, flags).

    Args:
        data, begin, end: the UTF-8 of the text.
        pages, slots, pool: see `records.text.CharacterTables`.
        values: out, int64: the hash of each unit.
        ends: out, bool: whether it is a boundary.
    """
    values[0], ends[0] = BOUNDARY, True
    count = 1
    flags = 0
    at = begin
    while at < end:
        point, at = _next_point(data, at, end)
        if point < 0:
            flags |= NOT_UTF8
            slot = np.int64(SEPARATOR)
            point = np.int64(32)
        else:
            slot = np.int64(slots[pages[point >> 8] * 256 + (point & 255)])
        if slot == CONTROL:
            flags |= CONTROLS
        if slot in (DROPPED, CONTROL):
            continue
        pooled = slot >= FIRST_POOLED
        first, entries = np.int64(0), np.int64(1)
        if pooled:
            first, entries = (slot - FIRST_POOLED) // POOL_UNIT, (slot - FIRST_POOLED) % POOL_UNIT
        for place in range(first, first + entries):
            kind = slot
            if pooled:
                kind = np.int64(pool[place]) // KIND_UNIT
                point = np.int64(pool[place]) % KIND_UNIT
            if kind == SEPARATOR:
                if not ends[count - 1]:
                    values[count], ends[count] = BOUNDARY, True
                    count += 1
            elif kind == BASE:
                values[count] = _modulo_prime(_modulo_prime(point * BASE_FACTOR) * (point + BASE_SHIFT))
                ends[count] = False
                count += 1
            elif not ends[count - 1]:
                mark = _modulo_prime(_modulo_prime(point * MARK_FACTOR) * (point + MARK_SHIFT))
                values[count - 1] = _modulo_prime(values[count - 1] + mark)
    if not ends[count - 1]:
        values[count], ends[count] = BOUNDARY, True
        count += 1
    return count, flags


@njit
def _count_bucket(value, kind, buckets, counts, touched, used):
    bucket = _modulo_prime(_modulo_prime(value + kind * SALT) * SPREAD)
    if buckets & (buckets - 1):
        bucket %= buckets
    else:
        bucket &= buckets - 1
    if counts[bucket] == 0:
        touched[used] = bucket
        used += 1
    counts[bucket] += 1
    return used


@njit
def _fill_counts(values, ends, units, powers, shortest, longest, counts, touched):
    """Counts the words and n-grams of a text: the number of buckets in `touched`, whose `counts` are above 0."""
    buckets = counts.shape[0]
    used = 0
    hashed = np.int64(0)
    length = 0
    for unit in range(units):
        if ends[unit]:
            if length:
                used = _count_bucket(_modulo_prime(hashed), 0, buckets, counts, touched, used)
            hashed = np.int64(0)
            length = 0
        else:
            if length < WORD_UNITS:
                hashed += _modulo_prime(values[unit] * powers[length])
            length += 1
        gram = np.int64(0)
        for size in range(1, min(longest, units - unit) + 1):
            last = unit + size - 1
            gram += _modulo_prime(values[last] * powers[size - 1])
            if size >= shortest and not (size == 1 and ends[unit]):
                used = _count_bucket(_modulo_prime(gram), size, buckets, counts, touched, used)
            if ends[last] and size > 1:
                break
    return used


@njit
def _sort(numbers, spare, starts):
    """Sorts whole numbers below 2**21 by their digits of 7 bits: a few dozen are not worth a comparison each.

    Args:
        numbers: in and out, int32 (N,).
        spare: int32, at least (N,).
        starts: int64 (129,).
    """
    for shift in range(0, 21, 7):
        starts[:] = 0
        for place in range(numbers.shape[0]):
            starts[((numbers[place] >> shift) & 127) + 1] += 1
        for digit in range(128):
            starts[digit + 1] += starts[digit]
        for place in range(numbers.shape[0]):
            digit = (numbers[place] >> shift) & 127
            spare[starts[digit]] = numbers[place]
            starts[digit] += 1
        numbers[:] = spare[: numbers.shape[0]]


@njit
def cut_lines(data, begins, lengths, most, kept):
    """Bytes of the first `most` lines of each text, into `kept`, int64 (B,)."""
    for record in range(begins.shape[0]):
        kept[record] = lengths[record]
        lines = 0
        for place in range(lengths[record]):
            if data[begins[record] + place] == LINE_END:
                lines += 1
                if lines == most:
                    kept[record] = place
                    break


@njit
def count_lines(data, begins, lengths, lines):
    """How many lines each text has, into `lines`, int64 (B,): one more than line ends."""
    for record in range(begins.shape[0]):
        lines[record] = 1
        for place in range(lengths[record]):
            lines[record] += data[begins[record] + place] == LINE_END


@njit
def split_lines(data, begins, lengths, line_begins, line_lengths):
    """Where the lines of all texts begin and how long they are, int64 (sum of lines,) each, one after another."""
    line = 0
    for record in range(begins.shape[0]):
        line_begins[line] = begins[record]
        end = begins[record] + lengths[record]
        for place in range(begins[record], end):
            if data[place] == LINE_END:
                line_lengths[line] = place - line_begins[line]
                line += 1
                line_begins[line] = place + 1
        line_lengths[line] = end - line_begins[line]
        line += 1


@njit
def _room(begins, lengths, most_bytes):
    longest = 0
    for record in range(begins.shape[0]):
        longest = max(longest, min(lengths[record], most_bytes))
    return longest


@njit
def count_documents(data, begins, lengths, most_bytes, pages, slots, pool, powers, shortest, longest, documents):
    """Adds 1 to `documents`, int64 (buckets,), for each text in which a bucket occurs; arguments as below."""
    room = _room(begins, lengths, most_bytes) * 6 + 2
    values, ends = np.empty(room, np.int64), np.empty(room, np.bool_)
    counts = np.zeros(documents.shape[0], np.int32)
    touched = np.empty(documents.shape[0], np.int32)
    for record in range(begins.shape[0]):
        end = begins[record] + min(lengths[record], most_bytes)
        units, _ = _units(data, begins[record], end, pages, slots, pool, values, ends)
        used = _fill_counts(values, ends, units, powers, shortest, longest, counts, touched)
        for place in range(used):
            documents[touched[place]] += 1
            counts[touched[place]] = 0


@njit
def make_tokens(
    data,
    begins,
    lengths,
    most_bytes,
    pages,
    slots,
    pool,
    powers,
    shortest,
    longest,
    frequencies,
    weights,
    steps,
    tokens,
    sizes,
    flags,
):
    """The tokens of texts, ascending: bucket * steps + weight.

    Args:
        data, begins, lengths: the texts, see `BytesColumn`.
        most_bytes: of a text, no more are read.
        pages, slots, pool: see `records.text.CharacterTables`.
        powers: int64 (WORD_UNITS,), of the point at which hashes are polynomials.
        shortest, longest: n of the n-grams; longest 0: none.
        frequencies: int64 (F,), what a bucket's count in a text weighs.
        weights: int64 (buckets,), what its rarity weighs; 0 leaves it out.
        steps: of a weight.
        tokens: out, int64 (B, L): the L heaviest; of equal ones those of the first buckets.
        sizes: out, int64 (B,): tokens of each text.
        flags: out, int64 (B,).
    """
    room = _room(begins, lengths, most_bytes) * 6 + 2
    values, ends = np.empty(room, np.int64), np.empty(room, np.bool_)
    # Of 32 bits, so that more of them are in the processor's cache.
    counts = np.zeros(weights.shape[0], np.int32)
    touched = np.empty(weights.shape[0], np.int32)
    rarities = weights.astype(np.int32)
    spare, starts = np.empty(tokens.shape[1], np.int32), np.empty(129, np.int64)
    for record in range(begins.shape[0]):
        end = begins[record] + min(lengths[record], most_bytes)
        units, flags[record] = _units(data, begins[record], end, pages, slots, pool, values, ends)
        flags[record] |= CUT if lengths[record] > most_bytes else 0
        flags[record] |= EMPTY if units == 1 else 0
        used = _fill_counts(values, ends, units, powers, shortest, longest, counts, touched)
        kept = 0
        for place in range(used):
            bucket = touched[place]
            weight = frequencies[min(counts[bucket], frequencies.shape[0] - 1)] * rarities[bucket]
            counts[bucket] = weight
            if weight:
                touched[kept] = bucket
                kept += 1
        if kept > tokens.shape[1]:
            order = np.empty(kept, np.int64)
            for place in range(kept):
                order[place] = np.int64(WEIGHT_LIMIT - counts[touched[place]]) * BUCKET_LIMIT + touched[place]
            order.sort()
            for place in range(kept):
                touched[place] = order[place] % BUCKET_LIMIT
                if place >= tokens.shape[1]:
                    counts[touched[place]] = 0
            kept = tokens.shape[1]
        chosen = touched[:kept]
        _sort(chosen, spare, starts)
        total = np.int64(0)
        for place in range(kept):
            total += np.int64(counts[chosen[place]]) * counts[chosen[place]]
        for place in range(kept):
            weight = np.int64(counts[chosen[place]])
            share = np.sqrt(np.float64(weight * weight) / np.float64(total)) * np.float64(steps - 1)
            tokens[record, place] = np.int64(chosen[place]) * steps + max(np.int64(np.rint(share)), 1)
            counts[chosen[place]] = 0
        sizes[record] = kept
