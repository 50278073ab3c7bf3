"""Commands in the documents survive a paste into a shell."""

import importlib
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from pipelines.running.runners import parse_arguments, pipeline_options
from tests.conftest import ROOT
from vcls_model import tune
from vcls_model.commands import UsageError, option_names, parse_all
from vcls_model.training import flags as training_flags

DOCUMENTS = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/*.md"), *ROOT.glob("sample/**/*.md")])
_PROGRAMS = ("python", "make", "pip", "docker", "curl", "gcloud", "kubectl", "grep", ".venv/bin/python")
_FENCED = re.compile(r"^ *```(\w*)\n(.*?)^ *```", re.MULTILINE | re.DOTALL)
_INLINE = re.compile(r"`((?:--|python |pip |make |docker )[^`]*)`")


def blocks(text: str) -> Iterator[str]:
    """The fenced blocks that are commands, not drawings or output."""
    for language, block in _FENCED.findall(text):
        if language not in ("", "sh", "bash"):
            continue
        if any(line.strip().startswith(tuple(f"{program} " for program in _PROGRAMS)) for line in block.splitlines()):
            yield block


def words(text: str) -> list[tuple[str, str]]:
    """The words of shell text, each with those of its characters that no quotes protect; comments left out."""
    found, word, bare, quote, at = [], "", "", "", 0
    while at < len(text):
        character = text[at]
        if quote:
            word += character
            quote = "" if character == quote else quote
        elif character == "\\":
            at += 1
            word += text[at : at + 1].strip("\n")
        elif character in "'\"":
            word, quote = word + character, character
        elif character == "#" and not word:
            at = text.find("\n", at) if "\n" in text[at:] else len(text)
        elif character.isspace():
            found.append((word, bare))
            word = bare = ""
        else:
            word, bare = word + character, bare + character
        at += 1
    return [each for each in [*found, (word, bare)] if each[0]]


def broken(text: str) -> list[str]:
    """Words that a shell would take apart, or replace by names of files."""
    return [
        word
        for word, bare in words(text)
        if (re.search("[;&|<>()]", bare) and bare not in ("&&", "|", ">"))
        or (re.search(r"[*?\[]", bare) and (bare.startswith("-") or "=" in bare))
    ]


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: path.name)
def test_commands_survive_a_paste(path: Path) -> None:
    text = path.read_text()
    for block in blocks(text):
        checked = subprocess.run(["bash", "-n"], input=block, capture_output=True, text=True, check=False)
        assert checked.returncode == 0, f"{block}\n{checked.stderr}"
        assert not broken(block)
        assert not [line for line in block.splitlines() if re.search(r"\\\s+$", line)]  # continues nothing
        assert not block.rstrip().endswith("\\")
    for inline in _INLINE.findall(text):
        alternatives = inline.replace("|", "")  # as in --decay=cosine|exponential
        assert not broken(alternatives), inline


def commands(text: str) -> Iterator[tuple[str, list[str]]]:
    """What Python is asked to run in shell text, a module or a file, each with its arguments; variables left out."""
    for line in text.replace("\\\n", " ").splitlines():
        tokens = [re.sub("['\"]", "", word) for word, _ in words(line)]
        for place, word in enumerate(tokens):
            rest = tokens[place + 1 + (tokens[place + 1 : place + 2] == ["-m"]) :]
            if word.endswith("python") and rest:
                ends = [number for number, token in enumerate(rest) if token in ("&&", "|", ">")]
                yield rest[0], [token for token in rest[1 : min(ends, default=len(rest))] if not token.startswith("$")]


def parse(program: str, given: list[str]) -> None:
    """Raises `UsageError` where a command of the project does not take these arguments."""
    if program.startswith("bench/"):
        source = (ROOT / program).read_text()
        for flag in (argument.partition("=")[0] for argument in given if argument.startswith("--")):
            if f'"{flag}"' not in source:
                raise UsageError(f"{program} has no {flag}")
    elif program in ("vcls_model.train", "vcls_model.tune"):
        if program == "vcls_model.tune":
            _, given = with_nothing_required(tune.make_parser()).parse_known_args(given)
        chosen = dict(argument.removeprefix("--").split("=", 1) for argument in given if "=" in argument)
        model = chosen.get("model", "auto").replace("auto", training_flags.DEFAULT_MODEL)
        parse_all(with_nothing_required(training_flags.make_parser(model, chosen.get("recipe", "best"))), given)
    elif program.startswith(("pipelines.", "vcls_model.")):
        module = importlib.import_module(program)
        if hasattr(module, "__path__"):
            module = importlib.import_module(f"{program}.__main__")
        parser = with_nothing_required(module.make_parser())
        if "--runner" not in option_names(parser):
            parse_all(parser, given)
            return
        args, beam = parse_arguments(parser, given)
        pipeline_options(parser, args.runner, beam)


def with_nothing_required(parser: Any) -> Any:
    """A sentence may name a command with the flag that it is about."""
    for action in parser._actions:
        action.required = False
    return parser


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: path.name)
def test_commands_have_the_flags_that_documents_give_them(path: Path) -> None:
    text = path.read_text()
    inline = [span for span in _INLINE.findall(text) if span.startswith("python ")]
    for program, given in commands("\n".join([*blocks(text), *(span.replace("\n", " ") for span in inline)])):
        parse(program, given)


def test_a_flag_that_is_not_there_is_found() -> None:
    assert list(commands("cd x && python -m vcls_model.train --data=a \\\n  --epochs='3' && ls")) == [
        ("vcls_model.train", ["--data=a", "--epochs=3"])
    ]
    for program, flag in (
        ("vcls_model.train", "--epoch=3"),
        ("vcls_model.tune", "--trails=3"),
        ("vcls_model.metrics", "--prediction=x"),
        ("pipelines.score", "--modle=x"),
        ("pipelines.preprocess", "--regoin=x"),
        ("pipelines.report", "--score=x"),
        ("bench/score.py", "--copy=1"),
    ):
        with pytest.raises(UsageError, match=flag.partition("=")[0]):
            parse(program, [flag])


def test_what_would_break_is_found() -> None:
    assert broken("python -m x --a=b;c") == ["--a=b;c"]
    assert broken("python -m x --input=a/*.mp4 --b='c;d*'") == ["--input=a/*.mp4"]
    assert broken("run videos/*.mp4 && echo 'it; is' # fine; really") == []
    assert len(list(blocks((ROOT / "README.md").read_text()))) >= 6
