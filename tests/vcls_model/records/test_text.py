"""Texts to tokens: what is the same text, what is counted, and what must never change."""

import unicodedata

import numpy as np
import pytest

from vcls_model.records import text_options
from vcls_model.records.encoding import BytesColumn
from vcls_model.records.kernels import text as text_kernels
from vcls_model.records.text import DocumentCounts, Tokeniser, character_tables, weight_steps
from vcls_model.records.text_options import TextOptions

OPTIONS = TextOptions(min_count=1)


def tokens_of(texts: list[bytes], options: TextOptions = OPTIONS) -> list[list[int]]:
    """The tokens of texts whose buckets all weigh the same."""
    weights = np.full(options.buckets, 256, np.int64)
    column, _ = Tokeniser(options, weights).tokens(BytesColumn.of(texts))
    return [
        column.values[begin : begin + count].tolist()
        for begin, count in zip(column.begins.tolist(), column.counts.tolist(), strict=True)
    ]


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("Café", "Cafe\u0301"),
        ("STRASSE", "straße"),
        ("ﬁn", "fin"),
        ("Ｗｉｄｅ", "wide"),
        ("한국어", unicodedata.normalize("NFD", "한국어")),
        ("データ", "ﾃﾞｰﾀ"),
        ("o\u0302\u0323", "o\u0323\u0302"),
        ("Σίσυφος", "ΣΊΣΥΦΟΣ"),
        ("a,  b!", "A b"),
        ("soft\u00adware", "software"),
        ("\u202ertl\u202c", "rtl"),
        ("nu\0l", "nul"),
        ("❤\ufe0f", "❤"),
    ],
)
def test_same_text(one: str, other: str) -> None:
    first, second = tokens_of([one.encode(), other.encode()])
    assert first == second
    assert first


@pytest.mark.parametrize(
    ("one", "other"),
    [("cafe", "café"), ("ab", "a b"), ("ab", "ba"), ("और", "आर"), ("가", "각"), ("😀", "😁"), ("e\u0301a", "ea\u0301")],
)
def test_other_text(one: str, other: str) -> None:
    first, second = tokens_of([one.encode(), other.encode()])
    assert first != second


def test_words_and_grams() -> None:
    """`ab` is a word, and its n-grams of 2 to 4 are _a, ab, b_, _ab, ab_ and _ab_: as many buckets, if none collide."""
    assert [len(tokens) for tokens in tokens_of([b"ab"])] == [7]
    assert [len(tokens) for tokens in tokens_of([b"ab ab"])] == [7]
    assert [len(tokens) for tokens in tokens_of([b"ab"], TextOptions(ngrams=None, min_count=1))] == [1]
    assert [len(tokens) for tokens in tokens_of([b"ab"], TextOptions(ngrams=(1, 1), min_count=1))] == [3]


def test_tokens_never_change() -> None:
    """Datasets and models hold them: another number here is another format."""
    steps = weight_steps(OPTIONS.buckets)
    buckets = [17892, 23266, 24611, 25964, 30827, 47973, 55375, 60654, 62063, 65439]
    assert [token // steps for token in tokens_of(["Ünï".encode()])[0]] == buckets


def test_longest_words_and_texts() -> None:
    tokens = tokens_of([b"x" * 65_536, b"x" * 65_536 + b" more", b"y" * 64, b"y" * 80])
    assert tokens[0] == tokens[1]
    assert tokens[2] != tokens[3]  # one n-gram is more frequent


def test_heaviest_are_kept() -> None:
    options = TextOptions(buckets=1 << 16, ngrams=None, tokens=3, min_count=1)
    words = [f"word{number}".encode() for number in range(10)]
    alone = {word: tokens_of([word], options)[0][0] // weight_steps(options.buckets) for word in words}
    text = b" ".join(word for number, word in enumerate(words) for _ in range(number + 1))
    kept = [token // weight_steps(options.buckets) for token in tokens_of([text], options)[0]]
    assert kept == sorted(alone[word] for word in words[-3:])


def test_notes() -> None:
    texts = [b"", b"..", b"\xff", b"a\xc3(", b"x" * 70_000, b"\0", "\u200fא".encode(), b"fine"]
    weights = np.full(OPTIONS.buckets, 1, np.int64)
    _, notes = Tokeniser(OPTIONS, weights).tokens(BytesColumn.of(texts))
    assert notes == {
        "texts_empty": 4,
        "texts_not_utf8": 2,
        "texts_cut": 1,
        "texts_with_control_characters": 2,
    }


def test_document_counts_add_up_in_any_order() -> None:
    texts = [f"Title number {number % 7} of {number % 11}".encode() for number in range(100)]
    tokeniser = Tokeniser(OPTIONS)
    together, apart = np.zeros(OPTIONS.buckets, np.int64), np.zeros(OPTIONS.buckets, np.int64)
    tokeniser.count_documents(BytesColumn.of(texts), together)
    for part in (texts[60:], texts[:10], texts[10:60]):
        tokeniser.count_documents(BytesColumn.of(part), apart)
    assert together.max() == 100
    np.testing.assert_array_equal(together, apart)


def test_weights_are_those_of_smoothed_tf_idf() -> None:
    counts = DocumentCounts(100, np.array([0, 1, 2, 50, 100]))
    options = TextOptions(buckets=5)
    expected = np.rint(256 * (np.log(101 / (1 + counts.documents)) + 1))
    np.testing.assert_array_equal(counts.weights(options), np.where(counts.documents < 2, 0, expected))
    assert DocumentCounts.from_dict(counts.to_dict()).documents.tolist() == counts.documents.tolist()


def test_bag_is_that_of_scikit_learn() -> None:
    """Words alone, without collisions: the cosine of two texts is that of scikit-learn's TF-IDF."""
    from sklearn.feature_extraction.text import TfidfVectorizer

    texts = ["a red car", "red red green blue", "blue car of a car", "green tree and red car"]
    options = TextOptions(ngrams=None, min_count=1)
    documents = np.zeros(options.buckets, np.int64)
    column = BytesColumn.of([text.encode() for text in texts])
    Tokeniser(options).count_documents(column, documents)
    tokens, _ = Tokeniser(options, DocumentCounts(len(texts), documents).weights(options)).tokens(column)
    steps = weight_steps(options.buckets)
    bags = np.zeros((len(texts), options.buckets))
    for row, (begin, count) in enumerate(zip(tokens.begins, tokens.counts, strict=True)):
        own = tokens.values[begin : begin + count]
        bags[row, own // steps] = (own % steps) / (steps - 1)
    reference = TfidfVectorizer(sublinear_tf=True, token_pattern=r"\w+").fit_transform(texts).toarray()
    np.testing.assert_allclose(bags @ bags.T, reference @ reference.T, atol=0.01)


def test_room_for_whatever_a_character_becomes() -> None:
    """The kernels reserve six units per byte."""
    tables = character_tables()
    for point in [*range(0x32400), *range(0xE0000, 0xE0200)]:
        if 0xD800 <= point < 0xE000:
            continue
        slot = int(tables.slots[tables.pages[point >> 8] * 256 + (point & 255)])
        entries = (slot - text_kernels.FIRST_POOLED) % text_kernels.POOL_UNIT
        assert slot < text_kernels.FIRST_POOLED or entries <= 6 * len(chr(point).encode())


def test_options_keep_tokens_within_31_bits() -> None:
    assert text_options._MOST_BUCKETS == text_kernels.BUCKET_LIMIT
    most = TextOptions(buckets=text_kernels.BUCKET_LIMIT)
    assert most.buckets * weight_steps(most.buckets) <= 1 << 31
    heaviest = DocumentCounts(10**12, np.ones(2, np.int64)).weights(TextOptions(buckets=2, min_count=1)).max()
    assert heaviest * character_tables().frequencies.max() < text_kernels.WEIGHT_LIMIT


def test_another_unicode_is_refused() -> None:
    with pytest.raises(RuntimeError, match=r"Unicode 1\.0"):
        Tokeniser(TextOptions(unicode="1.0"))
