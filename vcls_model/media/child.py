"""The process in which files are decoded: reads requests from standard input, writes rows to standard output.

Run by `vcls_model.media.sandbox` as `python -m vcls_model.media.child MEMORY_BYTES`. A request is a length (4 bytes)
and a pickled `(path, Request)`; it comes from the parent, which is trusted. Answers are a length, JSON and the bytes
that the JSON announces; they come from a process that a file may have taken over, and are checked by the parent.
"""

import dataclasses
import gc
import os
import pickle
import resource
import struct
import sys
import threading
import time
from pathlib import Path
from typing import Any, BinaryIO

import av
import cv2

from vcls_model.heap import return_freed_memory
from vcls_model.media import errors
from vcls_model.media.errors import MediaError
from vcls_model.media.probe import probe
from vcls_model.media.requests import Limits, Request
from vcls_model.media.rows import RowReader
from vcls_model.storage import to_json

_LENGTH = struct.Struct("<I")


def main() -> None:
    """Answers requests until standard input ends."""
    requests, answers = os.fdopen(os.dup(0), "rb"), os.fdopen(os.dup(1), "wb", buffering=0)
    os.dup2(2, 1)  # a library that prints must not write among the answers
    av.logging.set_level(None)
    cv2.setNumThreads(1)
    threading.Thread(target=leave_with_parent, args=(os.getppid(),), daemon=True).start()
    memory = MemoryLimit(int(sys.argv[1]))
    gc.freeze()  # what is imported stays: it need not be searched after each file
    _send(answers, {"kind": "ready"})
    while len(head := requests.read(_LENGTH.size)) == _LENGTH.size:
        path, request = pickle.loads(requests.read(_LENGTH.unpack(head)[0]))
        try:
            outcome = _answer(answers, path, request)
            if outcome is not None and outcome["reason"] == errors.DAMAGED and memory.scarce():
                raise MemoryError
            _send(answers, {"kind": "outcome", "outcome": outcome, "used_up": memory.scarce()})
        except MediaError as error:
            scarce = error.reason == errors.DAMAGED and memory.scarce()
            refusal = _out_of_memory(path) if scarce else error
            answer = {"kind": "error", "reason": refusal.reason, "message": refusal.message}
            _send(answers, {**answer, "used_up": memory.scarce()})
        except MemoryError:
            refusal = _out_of_memory(path)
            _send(answers, {"kind": "error", "reason": refusal.reason, "message": refusal.message})
        except BrokenPipeError:
            return
        except Exception as error:  # whatever a file provokes costs that file, with its name, and not the worker
            message = f"{path!r}: {type(error).__name__}: {error}"
            _send(answers, {"kind": "error", "reason": errors.CRASHED, "message": message})
        gc.collect()  # PyAV's objects refer to each other in circles, which would keep the frames of several files
        return_freed_memory()


class MemoryLimit:
    """Lets the address space grow by so many bytes from here on; allocations beyond fail."""

    def __init__(self, allowed: int) -> None:
        used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
        self._scarce = used + allowed * 3 // 4
        _, most = resource.getrlimit(resource.RLIMIT_AS)
        limit = used + allowed if most == resource.RLIM_INFINITY else min(used + allowed, most)
        resource.setrlimit(resource.RLIMIT_AS, (limit, limit))

    def scarce(self) -> bool:
        """Whether most of it was ever used: FFmpeg often calls a failed allocation a damaged frame.

        What one file used cannot be told from what the next one does: after such a file, this process has to end.
        """
        lines = Path("/proc/self/status").read_text().splitlines()
        peak = next(line for line in lines if line.startswith("VmPeak:"))
        return int(peak.split()[1]) * 1024 > self._scarce


def _out_of_memory(path: str) -> MediaError:
    return MediaError(errors.MEMORY, f"{path!r} needs more memory than the decoder may have")


def leave_with_parent(parent: int) -> None:
    """Ends this process when its parent is gone, even while a decoder hangs."""
    while os.getppid() == parent:
        time.sleep(1)
    os._exit(1)


def _answer(answers: BinaryIO, path: str, request: Request | Limits) -> dict[str, Any] | None:
    """Sends facts and rows; returns the outcome, or None where limits alone ask for nothing but facts."""
    if isinstance(request, Limits):
        _send(answers, {"kind": "facts", "facts": probe(path, request).to_dict()})
        return None
    with RowReader(path, request) as reader:
        _send(answers, {"kind": "facts", "facts": reader.facts.to_dict()})
        for row in reader:
            picture, sound = row.picture, row.sound
            content = [array.tobytes() for array in (picture, sound) if array is not None]
            head = {
                "kind": "row",
                "index": row.index,
                "target": row.target_seconds,
                "actual": row.actual_seconds,
                "picture": picture is not None,
                "sound": sound is not None,
                "text": row.text,
            }
            _send(answers, head, *content)
        assert reader.outcome is not None
        return dataclasses.asdict(reader.outcome)


def _send(answers: BinaryIO, head: dict[str, Any], *content: bytes) -> None:
    line = to_json(head).encode()
    for part in (_LENGTH.pack(len(line)) + line, *content):
        view = memoryview(part)
        while view:
            view = view[answers.write(view) :]


if __name__ == "__main__":
    main()
