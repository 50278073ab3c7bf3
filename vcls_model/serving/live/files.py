"""Media files labelled one after the other, for the screen and for players and programs: what the commands share."""

import dataclasses
import sys
from collections import Counter
from collections.abc import Sequence

from vcls_model import output_directories, storage
from vcls_model.commands import JobError, UsageError
from vcls_model.embedding import local_file
from vcls_model.media.errors import MediaError
from vcls_model.serving.live.engine import EngineOptions
from vcls_model.serving.live.formats import FORMATS, to_csv, to_video_intelligence, to_webvtt
from vcls_model.serving.live.labelling import FileLabeller, MediaLabels
from vcls_model.serving.live.models import LiveModel

_WIDTH = 48


@dataclasses.dataclass(frozen=True)
class FilesConfig:
    """What to label, and where its labels go.

    Attributes:
        files: paths of media files.
        output: directory for the labels of each file; None: the screen alone.
        formats: of these files, of `FORMATS`.
        top: lines of the table per file.
    """

    files: tuple[str, ...]
    output: str | None = None
    formats: tuple[str, ...] = ("json",)
    top: int = 10

    @classmethod
    def of(cls, patterns: Sequence[str], output: str | None, formats: str, top: int) -> "FilesConfig":
        """From the values of flags; raises `UsageError`, also where there is no such file."""
        chosen = tuple(formats.split(","))
        if unknown := set(chosen) - set(FORMATS):
            raise UsageError(f"--format={formats}: unknown {', '.join(sorted(unknown))} (known: {', '.join(FORMATS)})")
        if top < 1:
            raise UsageError(f"--top must be at least 1, got {top}")
        if output is not None:
            output_directories.check_writable(output)
        files = tuple(path for pattern in patterns for path, _, _ in storage.list_files(pattern))
        name, times = Counter(map(_name, files)).most_common(1)[0]
        if output is not None and times > 1:
            raise UsageError(f"{times} files are called {name}: label them into directories of their own")
        return cls(files, output, chosen, top)


def label_files(config: FilesConfig, model: LiveModel, options: EngineOptions | None = None) -> dict[str, MediaLabels]:
    """Labels the files, prints a table of each and writes what was asked for; returns the labels by path.

    Raises:
        UsageError: the model takes no media.
        JobError: a file could not be labelled; the others were.
    """
    labelled = {}
    with FileLabeller(model, options) as labeller:
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
                for form in config.formats:
                    place = storage.join(config.output, f"{_name(path)}.{form}")
                    storage.write_text(place, _rendered(labeller.labels, form, path))
    if len(labelled) < len(config.files):
        raise JobError(f"{len(config.files) - len(labelled)} of {len(config.files)} files could not be labelled")
    return labelled


def _name(path: str) -> str:
    return path.rpartition("/")[2]


def _rendered(labels: MediaLabels, form: str, path: str) -> str:
    if form == "json":
        return storage.to_json(to_video_intelligence(labels, path), indent=2)
    return to_webvtt(labels) if form == "vtt" else to_csv(labels)


def table(path: str, labels: MediaLabels, top: int) -> str:
    """The labels of a file, best first: name, probability of the whole, and a bar of the time in which each held."""
    lines = [f"{path}: {labels.seconds:.1f} s" + (f" ({labels.message})" if labels.message else "")]
    held = {span.index: span.score for span in reversed(labels.spans)}
    shown = list(labels.whole[:top])
    shown += [(index, score) for index, score in held.items() if index not in {each for each, _ in shown}]
    width = max((len(labels.classes[index].name) for index, _ in shown), default=0)
    for index, score in shown:
        lines.append(f"  {labels.classes[index].name:<{width}}  {score:6.3f}  {_bar(labels, index)}")
    return "\n".join(lines)


def _bar(labels: MediaLabels, index: int) -> str:
    cells = ["·"] * _WIDTH
    for span in labels.spans:
        if span.index == index:
            first = int(span.start / labels.seconds * _WIDTH)
            last = max(first + 1, round(span.end / labels.seconds * _WIDTH))
            cells[first:last] = ["█"] * (min(last, _WIDTH) - first)
    return "".join(cells)
