"""Labels media files over time with an exported model: a table and a timeline, or files for players and programs.

python -m vcls_model.label clip.mp4 --model=model
"""

import argparse
import dataclasses
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, NoReturn

from vcls_model.commands import JobError, Parser, UsageError, main, parse_all

if TYPE_CHECKING:
    from vcls_model.serving.live.labelling import MediaLabels

_WIDTH = 48


@dataclasses.dataclass(frozen=True)
class LabelConfig:
    """What to label.

    Attributes:
        files: paths of media files.
        output: directory for the labels of each file; None: the screen alone.
        formats: of these files: `json`, `vtt`, `csv`.
        top: lines of the table per file.
    """

    files: tuple[str, ...]
    output: str | None
    formats: tuple[str, ...]
    top: int

    @classmethod
    def of(cls, args: argparse.Namespace) -> "LabelConfig":
        """From the flags; raises `UsageError`."""
        from vcls_model import storage
        from vcls_model.serving.live.formats import FORMATS

        formats = tuple(args.format.split(","))
        if unknown := set(formats) - set(FORMATS):
            raise UsageError(
                f"--format={args.format}: unknown {', '.join(sorted(unknown))} (known: {', '.join(FORMATS)})"
            )
        if args.top < 1:
            raise UsageError(f"--top must be at least 1, got {args.top}")
        if args.output is not None:
            storage.check_writable(args.output)
        files = tuple(path for pattern in args.files for path, _, _ in storage.list_files(pattern))
        return cls(files, args.output, formats, args.top)


def make_parser() -> argparse.ArgumentParser:
    """The flags."""
    from vcls_model.serving.live.opening import add_model_flags

    parser = Parser(prog="python -m vcls_model.label", description=__doc__.split("\n")[0])
    parser.add_argument("files", nargs="+", metavar="FILE", help="video and sound files, or patterns")
    add_model_flags(parser)
    parser.add_argument("--output", metavar="DIR", help="write the labels of each file here, named as the file")
    parser.add_argument(
        "--format", default="json", metavar="LIST", help="of these files: json, vtt, csv (default: json)"
    )
    parser.add_argument("--top", type=int, default=10, metavar="N", help="labels shown per file (default: %(default)s)")
    return parser


def run(argv: Sequence[str] | None = None) -> "dict[str, MediaLabels]":
    """Labels the files; returns the labels by path.

    Raises:
        UsageError: a flag is wrong, there is no such file, or the model takes no media.
        JobError: a file could not be labelled; the others were.
    """
    args = parse_all(make_parser(), argv)
    config = LabelConfig.of(args)
    from vcls_model.embedding import local_file
    from vcls_model.media.errors import MediaError
    from vcls_model.serving.live.labelling import FileLabeller
    from vcls_model.serving.live.opening import engine_options, open_model

    options = engine_options(args)
    labelled = {}
    with FileLabeller(open_model(args), options) as labeller:
        for path in config.files:
            try:
                with local_file(path) as local:
                    for step in labeller.label(local):
                        if sys.stderr.isatty():
                            print(f"\r{path}: {step.seconds:.0f} s", end="\r", file=sys.stderr, flush=True)
            except MediaError as error:
                print(f"{error.reason}: {error.message}", file=sys.stderr, flush=True)
                continue
            assert labeller.labels is not None
            labelled[path] = labeller.labels
            print(table(path, labeller.labels, config.top), flush=True)
            if config.output is not None:
                _write(config, path, labeller.labels)
    if len(labelled) < len(config.files):
        raise JobError(f"{len(config.files) - len(labelled)} of {len(config.files)} files could not be labelled")
    return labelled


def table(path: str, labels: "MediaLabels", top: int) -> str:
    """The labels of a file, best first: name, probability of the whole, and a bar of the time in which each held."""
    lines = [f"{path}: {labels.seconds:.1f} s" + (f" ({labels.message})" if labels.message else "")]
    held = {span.index: span.score for span in reversed(labels.spans)}
    shown = list(labels.whole[:top])
    shown += [(index, score) for index, score in held.items() if index not in {each for each, _ in shown}]
    width = max((len(labels.classes[index].name) for index, _ in shown), default=0)
    for index, score in shown:
        bar = _bar(labels, index)
        lines.append(f"  {labels.classes[index].name:<{width}}  {score:6.3f}  {bar}")
    return "\n".join(lines)


def _bar(labels: "MediaLabels", index: int) -> str:
    cells = ["·"] * _WIDTH
    for span in labels.spans:
        if span.index == index:
            first = int(span.start / labels.seconds * _WIDTH)
            last = max(first + 1, round(span.end / labels.seconds * _WIDTH))
            cells[first:last] = ["█"] * (min(last, _WIDTH) - first)
    return "".join(cells)


def _write(config: LabelConfig, path: str, labels: "MediaLabels") -> None:
    from vcls_model import storage
    from vcls_model.serving.live.formats import to_csv, to_video_intelligence, to_webvtt

    name = path.rpartition("/")[2]
    texts = {
        "json": lambda: storage.to_json(to_video_intelligence(labels, path), indent=2),
        "vtt": lambda: to_webvtt(labels),
        "csv": lambda: to_csv(labels),
    }
    for form in config.formats:
        storage.write_text(storage.join(str(config.output), f"{name}.{form}"), texts[form]())


def command() -> NoReturn:
    """The console script."""
    main(run)


if __name__ == "__main__":
    command()
