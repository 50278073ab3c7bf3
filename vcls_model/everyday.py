"""ImageNet's 1,000 and AudioSet's 521 classes without any training: a model of them, or labels of files.

    python -m vcls_model.everyday --output=everyday        # a model of these classes, for pipelines.score
    python -m vcls_model.everyday clip.mp4 song.ogg        # the same as python -m vcls_model.label clip.mp4 song.ogg

The classifiers are those that came with the encoders' weights.
"""

import argparse
import dataclasses
from collections.abc import Sequence
from typing import TYPE_CHECKING

from vcls_model.commands import DEFAULT, Parser, UsageError, main, parse_all
from vcls_model.encoders import DEFAULT_AUDIO_ENCODER, DEFAULT_IMAGE_ENCODER

if TYPE_CHECKING:
    from vcls_model.embedding import EmbeddingConfig
    from vcls_model.serving.live.labelling import MediaLabels


@dataclasses.dataclass(frozen=True)
class EverydayConfig:
    """What to write.

    Attributes:
        files: patterns of media files; none: an exported model is to be written.
        output: directory of the model, or of the labels of each file; None: the screen alone.
        top: labels shown per file.
        fps: rows per second of media.
        max_seconds: how much of each file is read; None: all.
        image_encoder: `efficientnet-lite2` or `efficientnet-lite0`.
        overwrite: replace the directory of the model.
    """

    files: tuple[str, ...]
    output: str | None = None
    top: int = 10
    fps: float = 1.0
    max_seconds: float | None = None
    image_encoder: str = DEFAULT_IMAGE_ENCODER
    overwrite: bool = False

    def __post_init__(self) -> None:
        if not self.files and not self.output:
            raise UsageError("name media files to label, or --output=DIR for a model of the everyday classes")


def make_parser() -> Parser:
    """The parser of the command's flags."""
    parser = Parser(
        prog="python -m vcls_model.everyday", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("files", nargs="*", metavar="FILE", help="video and sound files, or patterns such as 'videos/*.mp4'")
    add("--output", metavar="DIR", help="of the model; with files, of a JSON file with the labels of each")
    add("--top", type=int, default=10, metavar="N", help=f"labels shown per file {DEFAULT}")
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


def run(argv: Sequence[str] | None = None) -> "dict[str, MediaLabels]":
    """Writes the model, or labels files; returns the labels by path.

    Raises:
        UsageError: a flag is wrong, or there is no such file.
        JobError: the weights are not installed, or a file has nothing that can be decoded.
    """
    args = vars(parse_all(make_parser(), argv))
    config = EverydayConfig(**{**args, "files": tuple(args["files"])})
    from vcls_model.embedding import EmbeddingConfig

    encoders = config.image_encoder, DEFAULT_AUDIO_ENCODER
    media = EmbeddingConfig.of(*encoders, fps=config.fps, max_seconds=config.max_seconds)
    try:
        media.request()
    except ValueError as error:
        raise UsageError(f"--{error}") from None
    if not config.files:
        _export(config, media)
        return {}
    from vcls_model.serving.live.everyday import EverydayModel
    from vcls_model.serving.live.files import FilesConfig, label_files

    files = FilesConfig.of(config.files, config.output, "json", config.top)
    return label_files(files, EverydayModel.of(media))


def _export(config: EverydayConfig, media: "EmbeddingConfig") -> None:
    from vcls_model import output_directories, storage
    from vcls_model.locks import locked_output
    from vcls_model.quiet import start_tensorflow
    from vcls_model.serving.everyday import Everyday

    assert config.output is not None
    with locked_output(config.output, "everyday", take_over=config.overwrite):
        output_directories.check_output(config.output, resume=False, overwrite=config.overwrite, resumable=False)
        everyday = Everyday.load(config.image_encoder)
        start_tensorflow()
        from vcls_model.serving.everyday_export import export_everyday

        if config.overwrite:
            storage.empty_directory(config.output)
        export_everyday(everyday, media, config.output)
    print(f"a model of {len(everyday.classes):,} everyday classes in {config.output}")


if __name__ == "__main__":
    main(run)
