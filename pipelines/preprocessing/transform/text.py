"""Texts to tokens in the transform graph: in TensorFlow what `kernels.text` does, number by number.

Whole numbers throughout, so that nothing depends on a processor or a batch; see `vcls_model.records.text` for what is
computed. TensorFlow is imported where it is used.
"""

from typing import TYPE_CHECKING, Any

from vcls_model.records.kernels.text import (
    BASE_FACTOR,
    BASE_SHIFT,
    BOUNDARY,
    BUCKET_LIMIT,
    FIRST_POOLED,
    KIND_UNIT,
    MARK,
    MARK_FACTOR,
    MARK_SHIFT,
    POOL_UNIT,
    PRIME,
    SALT,
    SEPARATOR,
    SPREAD,
    WEIGHT_LIMIT,
    WORD_UNITS,
)
from vcls_model.records.text import LINE_SHIFT, MOST_BYTES, character_tables, weight_steps
from vcls_model.records.text_options import TextOptions

if TYPE_CHECKING:
    import tensorflow as tf


def text_tokens(texts: Any, options: TextOptions, weights: Any) -> "tf.SparseTensor":
    """The tokens of texts, sparse int64 (B, L).

    Args:
        texts: string (B,), UTF-8.
        options: how.
        weights: int64 (buckets,), see `DocumentCounts.weights`.
    """
    return _bags(texts, options, weights).to_sparse()


def line_tokens(texts: Any, options: TextOptions, weights: Any) -> "tf.SparseTensor":
    """The tokens of the lines of texts, with their lines, sparse int64 (B, L); arguments as of `text_tokens`."""
    import tensorflow as tf

    lines = tf.strings.split(texts, "\n")
    bags = _bags(lines.flat_values, options.of_lines(), weights)
    line = bags.value_rowids()
    video = lines.value_rowids()
    number = tf.range(tf.size(video, tf.int64)) - tf.gather(lines.row_starts(), video)
    values = bags.flat_values + tf.bitwise.left_shift(tf.gather(number, line), tf.constant(LINE_SHIFT, tf.int64))
    tokens = tf.RaggedTensor.from_value_rowids(
        values, tf.gather(video, line), nrows=tf.size(texts, tf.int64), validate=False
    )
    return tokens.to_sparse()


def _bags(texts: Any, options: TextOptions, weights: Any) -> "tf.RaggedTensor":
    """The tokens of texts, ragged int64 (B, L)."""
    import tensorflow as tf

    kinds, points, rows = _characters(texts)
    values, ends, rows = _units(kinds, points, rows)
    hashes = [_words(values, ends, rows)]
    if options.ngrams:
        hashes += [_grams(values, ends, rows, size) for size in range(options.ngrams[0], options.ngrams[1] + 1)]
    hashed = tf.concat([part for part, _ in hashes], 0)
    rows = tf.concat([part for _, part in hashes], 0)
    spread = tf.math.floormod(tf.math.floormod(hashed, PRIME) * SPREAD, PRIME)
    buckets = tf.math.floormod(spread, options.buckets)
    places, _, counts = tf.unique_with_counts(rows * options.buckets + buckets, tf.int64)
    rows, buckets, weights = _weighted(places, counts, options, weights)
    rows, buckets, weights = _heaviest(rows, buckets, weights, options.tokens)
    total = tf.math.unsorted_segment_sum(weights * weights, rows, tf.size(texts, tf.int64))
    share = tf.sqrt(tf.cast(weights * weights, tf.float64) / tf.cast(tf.gather(total, rows), tf.float64))
    steps = weight_steps(options.buckets)
    rounded = tf.maximum(tf.cast(tf.round(share * (steps - 1)), tf.int64), 1)
    return tf.RaggedTensor.from_value_rowids(
        buckets * steps + rounded, rows, nrows=tf.size(texts, tf.int64), validate=False
    )


def _characters(texts: Any) -> tuple[Any, Any, Any]:
    """(kind, code point, row) of each character once folded, int64 (N,); a boundary begins and ends each row."""
    import tensorflow as tf

    tables = character_tables()
    framed = tf.strings.join([" ", tf.strings.substr(texts, 0, MOST_BYTES), " "])
    # How many characters a broken sequence becomes does not matter: boundaries in a row are one.
    decoded = tf.strings.unicode_decode(framed, "UTF-8", errors="replace", replacement_char=ord(" "))
    points = tf.cast(decoded.flat_values, tf.int64)
    page = tf.gather(tf.constant(tables.pages), points // 256)
    slots = tf.cast(tf.gather(tf.constant(tables.slots), page * 256 + tf.cast(points % 256, tf.int32)), tf.int64)
    pooled = slots >= FIRST_POOLED
    alone = (slots >= SEPARATOR) & (slots <= MARK)
    entries = tf.where(pooled, (slots - FIRST_POOLED) % POOL_UNIT, tf.cast(alone, tf.int64))
    sources = tf.repeat(tf.range(tf.size(slots, tf.int64)), entries)
    within = tf.range(tf.size(sources, tf.int64)) - tf.gather(tf.cumsum(entries, exclusive=True), sources)
    taken = tf.where(tf.gather(pooled, sources), tf.gather((slots - FIRST_POOLED) // POOL_UNIT, sources) + within, 0)
    in_pool = tf.cast(tf.gather(tf.constant(tables.pool), taken), tf.int64)
    own = tf.gather(slots * KIND_UNIT + points, sources)
    characters = tf.where(tf.gather(pooled, sources), in_pool, own)
    return characters // KIND_UNIT, characters % KIND_UNIT, tf.gather(decoded.value_rowids(), sources)


def _units(kinds: Any, points: Any, rows: Any) -> tuple[Any, Any, Any]:
    """(hash, whether it is a boundary, row) of each unit; neighbouring boundaries of a row are one."""
    import tensorflow as tf

    marks = kinds == MARK
    bases = tf.math.floormod(points * BASE_FACTOR, PRIME) * (points + BASE_SHIFT)
    others = tf.math.floormod(points * MARK_FACTOR, PRIME) * (points + MARK_SHIFT)
    hashed = tf.math.floormod(tf.where(marks, others, bases), PRIME)
    begins = tf.where(~marks)[:, 0]
    units = tf.cumsum(tf.cast(~marks, tf.int64)) - 1
    values = tf.math.floormod(tf.math.unsorted_segment_sum(hashed, units, tf.size(begins, tf.int64)), PRIME)
    ends = tf.gather(kinds, begins) == SEPARATOR
    rows = tf.gather(rows, begins)
    before, row_before = tf.concat([[False], ends], 0)[:-1], tf.concat([tf.constant([-1], tf.int64), rows], 0)[:-1]
    again = ends & before & (rows == row_before)
    values = tf.where(ends, tf.constant(BOUNDARY, tf.int64), values)
    kept = tf.where(~again)[:, 0]
    return tf.gather(values, kept), tf.gather(ends, kept), tf.gather(rows, kept)


def _words(values: Any, ends: Any, rows: Any) -> tuple[Any, Any]:
    """(hash, row) of each word, int64 (W,)."""
    import tensorflow as tf

    boundaries = tf.where(ends)[:, 0]
    count = tf.size(boundaries, tf.int64)
    words = tf.cumsum(tf.cast(ends, tf.int64)) - 1  # the boundary before a unit
    places = tf.range(tf.size(values, tf.int64)) - tf.gather(boundaries, words) - 1
    powers = tf.gather(tf.constant(character_tables().powers), tf.clip_by_value(places, 0, WORD_UNITS - 1))
    hashed = tf.where((places >= 0) & (places < WORD_UNITS), tf.math.floormod(values * powers, PRIME), 0)
    sums = tf.math.floormod(tf.math.unsorted_segment_sum(hashed, words, count), PRIME)
    filled = tf.where(tf.math.unsorted_segment_max(places, words, count) >= 0)[:, 0]
    return tf.gather(sums, filled), tf.gather(rows, tf.gather(boundaries, filled))


def _grams(values: Any, ends: Any, rows: Any, size: int) -> tuple[Any, Any]:
    """(hash, row) of each n-gram of `size` units that holds no boundary but as its first or last unit."""
    import tensorflow as tf

    powers = character_tables().powers
    count = tf.maximum(tf.size(values) - size + 1, 0)
    sums = tf.zeros([count], tf.int64)
    inside = rows[:count] == rows[size - 1 : size - 1 + count]
    for place in range(size):
        sums += tf.math.floormod(values[place : place + count] * int(powers[place]), PRIME)
        if size == 1 or 0 < place < size - 1:
            inside &= ~ends[place : place + count]
    kept = tf.where(inside)[:, 0]
    return tf.math.floormod(tf.gather(sums, kept), PRIME) + size * SALT, tf.gather(rows, kept)


def _weighted(places: Any, counts: Any, options: TextOptions, weights: Any) -> tuple[Any, Any, Any]:
    """(row, bucket, weight) of the buckets that count."""
    import tensorflow as tf

    frequencies = tf.constant(character_tables().frequencies)
    buckets = places % options.buckets
    counted = tf.gather(frequencies, tf.minimum(counts, len(character_tables().frequencies) - 1))
    weighted = counted * tf.gather(weights, buckets)
    kept = tf.where(weighted > 0)[:, 0]
    return tf.gather(places // options.buckets, kept), tf.gather(buckets, kept), tf.gather(weighted, kept)


def _heaviest(rows: Any, buckets: Any, weights: Any, most: int) -> tuple[Any, Any, Any]:
    """The `most` heaviest buckets of each row, by row and bucket."""
    import tensorflow as tf

    by_weight = tf.argsort(rows * (WEIGHT_LIMIT * BUCKET_LIMIT) + (WEIGHT_LIMIT - weights) * BUCKET_LIMIT + buckets)
    sorted_rows = tf.gather(rows, by_weight)
    first = tf.searchsorted(sorted_rows, sorted_rows, side="left")
    by_weight = tf.boolean_mask(by_weight, tf.range(tf.size(sorted_rows)) - first < most)
    rows, buckets, weights = (tf.gather(each, by_weight) for each in (rows, buckets, weights))
    by_bucket = tf.argsort(rows * BUCKET_LIMIT + buckets)
    return tf.gather(rows, by_bucket), tf.gather(buckets, by_bucket), tf.gather(weights, by_bucket)
