"""Paths, tables and JSON go through `storage` and `tables`: nothing else opens, lists, parses or writes them."""

import re

from tests.conftest import ROOT

# What only the doors may call, and who else may, for files that no user names.
BARE = {
    r"\bjson\.(dump|load)s?\(": {"vcls_model/metrics/packing.py"},  # inside a binary format, keys sorted
    r"\bcsv\.(reader|writer|DictReader|DictWriter)\(": set(),
    # The kernel's files, a lock, whose making must fail where there is one, and standard streams that were closed.
    r"(?<![\w.])(?<!def )open\(|\bio\.open\(": {
        "vcls_model/commands.py",
        "vcls_model/locks.py",
        "vcls_model/training/devices.py",
    },
    r"\bFileSystems\.(?!set_options)\w+\(": {"vcls_model/object_stores.py"},
    r"\bgfile\.(?!GFile)\w+\(": set(),
    r"\bgfile\.GFile\(": {"vcls_model/input/blocks.py"},
    r"\bglob\.i?glob\(|\.r?glob\(": {"vcls_model/compiled.py", "vcls_model/encoders/custom.py"},
    r"\bos\.(listdir|scandir)\(": {"vcls_model/locks.py"},
    r"\bshutil\.rmtree\(": {"vcls_model/compiled.py"},
    r"\bpandas\b|\bnp\.(load|loadtxt|genfromtxt|savetxt)\(": set(),
}
DOORS = ("vcls_model/patterns.py", "vcls_model/storage.py", "vcls_model/tables.py")


def test_only_the_doors_touch_files_and_tables() -> None:
    sources = {
        str(path.relative_to(ROOT)): path for top in ("pipelines", "vcls_model") for path in (ROOT / top).rglob("*.py")
    }
    assert set(DOORS) <= set(sources)
    found: dict[str, set[str]] = {pattern: set() for pattern in BARE}
    for name, path in sources.items():
        # Comments and the documentation of a module name what it replaces.
        code = re.sub(r'"""[\s\S]*?"""|#[^\n]*', "", path.read_text("utf-8"))
        for pattern in BARE:
            if name not in DOORS and re.search(pattern, code):
                found[pattern].add(name)
    assert found == BARE
