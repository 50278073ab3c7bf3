"""The flags of the service."""

import argparse
import os

_DEFAULT = "(default: %(default)s)"


def add_flags(parser: argparse.ArgumentParser) -> None:
    """Adds them, but for those that say which model labels, and how."""
    add = parser.add_argument
    add("--name", metavar="NAME", help="of the model in addresses (default: that of its directory)")
    add("--host", default="127.0.0.1", metavar="ADDRESS", help=f"address to listen on {_DEFAULT}")
    add("--port", type=int, default=8501, metavar="N", help=f"port; 0 takes a free one {_DEFAULT}")
    add(
        "--token",
        default=os.environ.get("VCLS_TOKEN"),
        metavar="TEXT",
        help="what clients must send as Authorization: Bearer TEXT (default: the environment's VCLS_TOKEN)",
    )
    add("--allow_host", action="append", default=[], metavar="NAME", help="another Host to answer to on loopback")
    add("--allow_origin", action="append", default=[], metavar="URL", help="origin whose pages may use the service")
    add("--allow_private_urls", action="store_true", help="let POST /label fetch from addresses that are not public")
    add("--streams", type=int, default=64, metavar="N", help=f"live streams open at once, at most {_DEFAULT}")
    add("--encoder_threads", type=int, default=0, metavar="N", help="frames encoded at once (default: one per core)")
    add("--media_mb", type=int, default=1024, metavar="MB", help=f"largest file for POST /label {_DEFAULT}")
    add("--media_seconds", type=float, default=3600.0, metavar="S", help=f"longest file for POST /label {_DEFAULT}")
    add(
        "--source",
        action="append",
        default=[],
        metavar="NAME=URL",
        help="stream to pull: rtsp://, http(s)://, a path, loop:PATH or growing:PATH",
    )
    add("--events", metavar="FILE", help="append the label events of pulled streams here, a line of JSON each")
    add("--webhook", action="append", default=[], metavar="URL", help="post each label event of pulled streams here")
