"""Labels video and sound files without any training, by ImageNet's 1,000 and AudioSet's 521 classes.

    python -m vcls_model.everyday clip.mp4 song.ogg        # a table
    python -m vcls_model.everyday 'videos/*.mp4' --output=labels.csv
    python -m vcls_model.everyday --output=everyday        # a model of these classes, for pipelines.score

The classifiers are those that came with the encoders' weights.
"""

import argparse
import dataclasses
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

from vcls_model.commands import DEFAULT, JobError, Parser, UsageError, main, parse_all
from vcls_model.encoders import DEFAULT_AUDIO_ENCODER, DEFAULT_IMAGE_ENCODER

if TYPE_CHECKING:
    from vcls_model.embedding import EmbeddingConfig
    from vcls_model.serving.everyday import Everyday
    from vcls_model.serving.everyday_files import Labelled

_TABLES = (".csv", ".json")


@dataclasses.dataclass(frozen=True)
class EverydayConfig:
    """What to label, and where to write it.

    Attributes:
        files: paths of media files; none: an exported model is to be written.
        output: a `.csv` or `.json` file, the directory of the model, or "".
        top: labels per file, of pictures and of sound each.
        fps: rows per second of media.
        max_seconds: how much of each file is read; None: all.
        image_encoder: `efficientnet-lite2` or `efficientnet-lite0`.
        overwrite: replace the directory of the model.
    """

    files: tuple[str, ...]
    output: str = ""
    top: int = 5
    fps: float = 1.0
    max_seconds: float | None = None
    image_encoder: str = DEFAULT_IMAGE_ENCODER
    overwrite: bool = False

    def __post_init__(self) -> None:
        if self.top < 1:
            raise UsageError(f"--top must be at least 1, got {self.top}")
        if not self.files and not self.output:
            raise UsageError("name media files to label, or --output=DIR for a model of the everyday classes")
        if self.files and self.output and not self.output.lower().endswith(_TABLES):
            raise UsageError(f"--output={self.output}: the labels of files go to a .csv or .json file")


def make_parser() -> Parser:
    """The parser of the command's flags."""
    parser = Parser(
        prog="python -m vcls_model.everyday", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("files", nargs="*", metavar="FILE", help="video and sound files, or patterns such as 'videos/*.mp4'")
    add("--output", default="", metavar="PATH", help="file.csv or file.json for the labels; without files: a directory")
    add("--top", type=int, default=5, metavar="N", help=f"labels per file, of pictures and of sound each {DEFAULT}")
    add("--fps", type=float, default=1.0, metavar="N", help=f"moments per second {DEFAULT}")
    add("--max_seconds", type=float, metavar="S", help="read at most the first S seconds per file (default: all)")
    add(
        "--image_encoder",
        default=DEFAULT_IMAGE_ENCODER,
        metavar="NAME",
        help=f"efficientnet-lite2, or the faster efficientnet-lite0 {DEFAULT}",
    )
    add("--overwrite", action="store_true", help="replace the contents of the model's directory")
    return parser


def run(argv: Sequence[str] | None = None) -> "list[Labelled]":
    """Labels files, or writes the model; returns the labels.

    Raises:
        UsageError: a flag is wrong, or there is no such file.
        JobError: the weights are not installed, or a file has nothing that can be decoded.
    """
    config = EverydayConfig(**vars(parse_all(make_parser(), argv)))
    from vcls_model import storage
    from vcls_model.embedding import Embedder, EmbeddingConfig
    from vcls_model.media.errors import MediaError
    from vcls_model.serving.everyday import Everyday
    from vcls_model.serving.everyday_files import label_file, to_csv, to_json

    everyday = Everyday.load(config.image_encoder)
    embedding = EmbeddingConfig.of(
        config.image_encoder, DEFAULT_AUDIO_ENCODER, fps=config.fps, max_seconds=config.max_seconds, file_count=1
    )
    try:
        embedding.request()
    except ValueError as error:
        raise UsageError(f"--{error}") from None
    if not config.files:
        _export(config, everyday, embedding)
        return []
    paths = [path for pattern in config.files for path, _, _ in storage.list_files(pattern)]
    if config.output:
        storage.check_writable(storage.absolute(config.output).rpartition("/")[0])
    labelled = []
    with Embedder(embedding) as embedder:
        for path in paths:
            try:
                each = label_file(path, everyday, embedder, embedding, config.top)
            except MediaError as error:
                print(f"{error.reason}: {error.message}", file=sys.stderr, flush=True)
                continue
            print(each.table(), flush=True)
            labelled.append(each)
    if config.output:
        as_json = config.output.lower().endswith(".json")
        storage.write_text(config.output, storage.to_json(to_json(labelled)) if as_json else to_csv(labelled))
    if len(labelled) < len(paths):
        raise JobError(f"{len(paths) - len(labelled)} of {len(paths)} files could not be labelled")
    return labelled


def _export(config: EverydayConfig, everyday: "Everyday", embedding: "EmbeddingConfig") -> None:
    from vcls_model import storage
    from vcls_model.locks import locked_output
    from vcls_model.quiet import start_tensorflow

    with locked_output(config.output, "everyday", take_over=config.overwrite):
        storage.check_output(config.output, resume=False, overwrite=config.overwrite, resumable=False)
        start_tensorflow()
        from vcls_model.serving.everyday_export import export_everyday

        if config.overwrite:
            storage.empty_directory(config.output)
        export_everyday(everyday, embedding, config.output)
    print(f"a model of {len(everyday.classes):,} everyday classes in {config.output}")


if __name__ == "__main__":
    main(run)
