"""Commands in the documents survive a paste into a shell."""

import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conftest import ROOT

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


def test_what_would_break_is_found() -> None:
    assert broken("python -m x --a=b;c") == ["--a=b;c"]
    assert broken("python -m x --input=a/*.mp4 --b='c;d*'") == ["--input=a/*.mp4"]
    assert broken("run videos/*.mp4 && echo 'it; is' # fine; really") == []
    assert len(list(blocks((ROOT / "README.md").read_text()))) >= 6
