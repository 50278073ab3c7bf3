"""What a SavedModel may do when it is loaded and called: a SavedModel is a program.

Its graph is a list of operations, some of which read and write files, open connections or call Python. Models are
refused unless all their operations are known to compute only; `--trust_model` lifts that.
"""

import argparse
import re
from collections.abc import Iterable
from typing import Any

from vcls_model import storage
from vcls_model.commands import UsageError
from vcls_model.computing_operations import COMPUTING, SAVING
from vcls_model.quiet import quiet_start_up

_FILE = "saved_model.pb"
_TEXT_FILE = "saved_model.pbtxt"
# What a protocol buffer holds at most.
LARGEST_GRAPH_BYTES = 1 << 31
# Functions of these names hold the operations that write and read the variables' files when a model is saved.
_SAVER = re.compile(r"__inference__traced_(save|restore)_\d+")
_NAMED = 8


def add_trust_argument(parser: argparse.ArgumentParser) -> None:
    """Adds `--trust_model`."""
    parser.add_argument(
        "--trust_model",
        action="store_true",
        help="load SavedModels whatever operations they have; a SavedModel is a program, and without this flag those "
        "that may do more than compute (files, network, Python) are refused",
    )


def refuse_encoder_programs(args: argparse.Namespace) -> None:
    """`refuse_programs` of what --image_encoder and --audio_encoder name, where that is a SavedModel."""
    for flag in ("image_encoder", "audio_encoder"):
        path = getattr(args, flag)
        if path:
            refuse_programs(path, f"--{flag}={path}", trusted=args.trust_model)


def refuse_programs(directory: str, what: str, *, trusted: bool) -> None:
    """Refuses a SavedModel whose operations may do more than compute; imports TensorFlow.

    Args:
        directory: of the SavedModel, local or on an object store; what is none passes: what loads it says so.
        what: what the command line calls it, for the message: `--model=DIR`.
        trusted: the user vouches for it, and it is not looked at.

    Raises:
        UsageError: it has other operations, which the message names, or is damaged, or stored as text.
    """
    if trusted:
        return
    path = storage.join(directory, _FILE)
    if not storage.exists(path):
        if storage.exists(storage.join(directory, _TEXT_FILE)):
            raise UsageError(
                f"{what} is a SavedModel stored as text ({_TEXT_FILE}), whose operations are not looked at: if you "
                "trust where it comes from, add --trust_model"
            )
        return
    names = sorted(other_operations(storage.read_small(path, LARGEST_GRAPH_BYTES), path))
    if names:
        more = f" and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
        raise UsageError(
            f"{what} has operations that may do more than compute: {', '.join(names[:_NAMED])}{more}. A SavedModel is "
            "a program: if you trust where it comes from, add --trust_model"
        )


def other_operations(serialized: bytes, origin: str) -> set[str]:
    """Names of the operations in a `saved_model.pb` that are not known to compute only.

    Raises:
        UsageError: `serialized` is not a SavedModel; the message begins with `origin`.
    """
    from google.protobuf.message import DecodeError

    with quiet_start_up():
        from tensorflow.core.protobuf import saved_model_pb2

    saved = saved_model_pb2.SavedModel()
    try:
        saved.ParseFromString(serialized)
    except DecodeError:
        raise UsageError(f"{origin} is not a SavedModel") from None
    others: set[str] = set()
    # TensorFlow runs nodes of the graph itself only where there are no objects, as version 1 saved models: there the
    # operations that save variables may belong to what is called.
    of_objects = len(saved.meta_graphs) == 1 and saved.meta_graphs[0].HasField("object_graph_def")
    for graph in saved.meta_graphs:
        functions = {function.signature.name: function for function in graph.graph_def.library.function}
        savers = _savers(graph, functions)
        others |= _others(graph.graph_def.node, functions, COMPUTING | SAVING if of_objects else COMPUTING)
        for name, function in functions.items():
            others |= _others(function.node_def, functions, COMPUTING | SAVING if name in savers else COMPUTING)
    return others


def _others(nodes: Iterable[Any], functions: Any, allowed: frozenset[str]) -> set[str]:
    return {node.op for node in nodes if node.op not in allowed and node.op not in functions}


def _savers(graph: Any, functions: Any) -> set[str]:
    """The functions that save and restore variables, which nothing that can be called calls."""
    called = set(graph.object_graph_def.concrete_functions)
    for name, function in functions.items():
        if not _SAVER.fullmatch(name):
            for node in function.node_def:
                called.add(node.op)
                for attribute in node.attr.values():
                    called.add(attribute.func.name)
                    called.update(each.name for each in attribute.list.func)
    return {name for name in functions if _SAVER.fullmatch(name) and name not in called}
