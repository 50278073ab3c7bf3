"""The flags of preprocess that are about texts."""

import argparse

from vcls_model.commands import DEFAULT
from vcls_model.records.text_options import TextOptions

PREFIX = "text"


def add_text_flags(parser: argparse.ArgumentParser) -> None:
    """Adds `--text` and how texts become features."""
    add = parser.add_argument
    defaults = TextOptions()
    assert defaults.ngrams is not None
    add(
        "--text",
        default="",
        metavar="NAMES",
        help="bytes features (of a CSV, columns) that hold text to learn from, such as title,description; commas "
        "separate them",
    )
    add(
        "--text_buckets",
        type=int,
        default=defaults.buckets,
        help=f"words and n-grams of texts are hashed to this many buckets {DEFAULT}",
    )
    add(
        "--text_ngrams",
        default="-".join(map(str, defaults.ngrams)),
        metavar="A-B",
        help=f"lengths of the character n-grams within words; none: words alone {DEFAULT}",
    )
    add(
        "--text_tokens",
        type=int,
        default=defaults.tokens,
        help=f"keep at most this many words and n-grams per text, those that weigh most {DEFAULT}",
    )
    add(
        "--text_min_count",
        type=int,
        default=defaults.min_count,
        help=f"leave out what occurs in fewer training texts {DEFAULT}",
    )


def text_names(args: argparse.Namespace) -> list[str]:
    """The features that `--text` names, each once."""
    return list(dict.fromkeys(name.strip() for name in args.text.split(",") if name.strip()))


def text_options(args: argparse.Namespace) -> TextOptions:
    """How texts become features.

    Raises:
        UsageError: a flag is out of range.
    """
    return TextOptions.parse(args.text_buckets, args.text_ngrams, args.text_tokens, args.text_min_count)
