"""How texts become bags of buckets. Pure Python, so that `--help` answers at once."""

import dataclasses
import unicodedata

from vcls_model.commands import UsageError

_MOST_BUCKETS = 1 << 20  # `kernels.text.BUCKET_LIMIT`
_MOST_TOKENS = 1 << 14
_LONGEST_GRAM = 8
# Of a second's text, which every frame carries, no more are kept.
_MOST_LINE_TOKENS = 64


@dataclasses.dataclass(frozen=True)
class TextOptions:
    """How texts become bags.

    Attributes:
        buckets: features are hashed to as many, at most 2^20.
        ngrams: shortest and longest n-gram of characters, at most 8; None: words alone.
        tokens: most tokens per text; the heaviest are kept.
        min_count: a bucket counts if it occurs in as many training texts.
        unicode: version of Unicode that says what a letter is.
    """

    buckets: int = 1 << 16
    ngrams: tuple[int, int] | None = (2, 4)
    tokens: int = 256
    min_count: int = 2
    unicode: str = unicodedata.unidata_version

    def __post_init__(self) -> None:
        if not 2 <= self.buckets <= _MOST_BUCKETS:
            raise UsageError(f"--text_buckets must lie in [2, {_MOST_BUCKETS}], got {self.buckets}")
        if self.ngrams and not 1 <= self.ngrams[0] <= self.ngrams[1] <= _LONGEST_GRAM:
            raise UsageError(f"--text_ngrams must be two lengths of 1 to {_LONGEST_GRAM}, got {self.ngrams}")
        if not 1 <= self.tokens <= _MOST_TOKENS:
            raise UsageError(f"--text_tokens must lie in [1, {_MOST_TOKENS}], got {self.tokens}")
        if self.min_count < 1:
            raise UsageError(f"--text_min_count must be at least 1, got {self.min_count}")

    def of_lines(self) -> "TextOptions":
        """The options of texts of seconds, of which at most 64 tokens each are kept."""
        return dataclasses.replace(self, tokens=min(self.tokens, _MOST_LINE_TOKENS))

    @classmethod
    def parse(cls, buckets: int, ngrams: str, tokens: int, min_count: int) -> "TextOptions":
        """From the flags, of which `ngrams` is `none` or `2-4`.

        Raises:
            UsageError: one is out of range.
        """
        if ngrams == "none":
            return cls(buckets, None, tokens, min_count)
        shortest, _, longest = ngrams.partition("-")
        if not (shortest.isdecimal() and longest.isdecimal()):
            raise UsageError(f"--text_ngrams must be like 2-4, or none, got {ngrams!r}")
        return cls(buckets, (int(shortest), int(longest)), tokens, min_count)
