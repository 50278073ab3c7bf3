"""What is freed stays with the process, or goes back to the system, as asked."""

import platform
import subprocess
import sys

import pytest

pytestmark = pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="other C libraries decide for themselves")
# 160 MB are more than glibc keeps by itself.
AGAIN = """
import resource
from vcls_model.heap import keep_freed_memory
{call}
def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(5):
        several = [bytearray(b"x") * (20 << 20) for _ in range(8)]
        del several
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
faults()
print(faults())
"""
RETURNED = """
from pathlib import Path
from vcls_model.heap import keep_freed_memory, return_freed_memory
def resident_mb():
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096 >> 20
keep_freed_memory()
several = [bytearray(b"x") * (8 << 20) for _ in range(20)]
del several
kept = resident_mb()
return_freed_memory()
print(kept - resident_mb())
"""


def printed(script: str) -> int:
    return int(subprocess.run([sys.executable, "-c", script], check=True, capture_output=True, text=True).stdout)


def test_what_is_freed_is_used_again_without_asking_the_system() -> None:
    assert printed(AGAIN.format(call="keep_freed_memory()")) < 1000 < printed(AGAIN.format(call="pass"))


def test_what_is_freed_goes_back_to_the_system() -> None:
    assert printed(RETURNED) > 100
