"""Labels media files over time with an exported model: a table and a timeline, or files for players and programs.

python -m vcls_model.label clip.mp4 --model=model
"""

import argparse
from collections.abc import Sequence
from typing import TYPE_CHECKING, NoReturn

from vcls_model.commands import DEFAULT, Parser, first_line, main, parse_all

if TYPE_CHECKING:
    from vcls_model.serving.live.labelling import MediaLabels


def make_parser() -> argparse.ArgumentParser:
    """The flags."""
    from vcls_model.serving.live.opening import add_model_flags

    parser = Parser(prog="python -m vcls_model.label", description=first_line(__doc__))
    parser.add_argument("files", nargs="+", metavar="FILE", help="video and sound files, or patterns")
    add_model_flags(parser)
    parser.add_argument("--output", metavar="DIR", help="write the labels of each file here, named as the file")
    parser.add_argument("--format", default="json", metavar="LIST", help=f"of these files: json, vtt, csv {DEFAULT}")
    parser.add_argument("--top", type=int, default=10, metavar="N", help=f"labels shown per file {DEFAULT}")
    return parser


def run(argv: Sequence[str] | None = None) -> "dict[str, MediaLabels]":
    """Labels the files; returns the labels by path.

    Raises:
        UsageError: a flag is wrong, there is no such file, or the model takes no media.
        JobError: a file could not be labelled; the others were.
    """
    args = parse_all(make_parser(), argv)
    from vcls_model.serving.live.files import FilesConfig, label_files
    from vcls_model.serving.live.opening import engine_options, open_model

    config = FilesConfig.of(args.files, args.output, args.format, args.top)
    options = engine_options(args)
    return label_files(config, open_model(args), options)


def command() -> NoReturn:
    """The console script."""
    main(run)


if __name__ == "__main__":
    command()
