"""Serves a model: a page that labels a camera while it runs, and an interface that existing clients speak.

python -m vcls_model.serve --model=model
"""

import argparse
import dataclasses
import gc
import ipaddress
import re
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, NoReturn

from vcls_model.commands import JobError, Parser, UsageError, first_line, main, parse_all

if TYPE_CHECKING:
    from vcls_model.serving.http.settings import ServiceSettings
    from vcls_model.serving.live.sources import Source

_LOCAL_HOSTS = ("localhost", "127.0.0.1", "[::1]")


@dataclasses.dataclass(frozen=True)
class ServeConfig:
    """What is served, and where.

    Attributes:
        host, port: address.
        settings: bounds and doors.
        sources: streams that the service pulls.
        events: file of JSON lines, or None.
        webhooks: addresses that are called for each event.
    """

    host: str
    port: int
    settings: "ServiceSettings"
    sources: "tuple[Source, ...]"
    events: str | None
    webhooks: tuple[str, ...]

    @classmethod
    def of(cls, args: argparse.Namespace) -> "ServeConfig":
        """From the flags; raises `UsageError`."""
        from vcls_model.serving.http.settings import ServiceSettings
        from vcls_model.serving.live.sources import Source

        if not 0 <= args.port < 65_536:
            raise UsageError(f"--port must lie between 0 and 65535, got {args.port}")
        sources = tuple(Source.parse(each) for each in args.source)
        if len({each.name for each in sources}) < len(sources):
            raise UsageError("--source: two sources have the same name")
        if len(sources) > args.streams:
            raise UsageError(
                f"--source: {len(sources)} sources are more than the --streams={args.streams} that are open"
            )
        for address in args.webhook:
            if not re.match("https?://[^/]", address):
                raise UsageError(f"--webhook={address}: expected an address that begins with http:// or https://")
        for flag, least in (("streams", 1), ("encoder_threads", 0), ("media_mb", 1)):
            if getattr(args, flag) < least:
                raise UsageError(f"--{flag} must be at least {least}, got {getattr(args, flag)}")
        if not args.media_seconds > 0:
            raise UsageError(f"--media_seconds must be positive, got {args.media_seconds:g}")
        if args.name is not None and not re.fullmatch(r"[\w.-]+", args.name):
            raise UsageError(f"--name={args.name}: expected letters, digits, dots, - and _, since addresses hold it")
        for origin in args.allow_origin:
            if not re.fullmatch(r"https?://[^/\s]+", origin):
                raise UsageError(
                    f"--allow_origin={origin}: expected an origin such as https://example.org, without a path"
                )
        hosts = (*_LOCAL_HOSTS, *(name.lower() for name in args.allow_host)) if is_loopback(args.host) else ()
        settings = ServiceSettings(
            token=args.token or None,
            hosts=hosts,
            origins=tuple(args.allow_origin),
            most_media_bytes=args.media_mb << 20,
            most_media_seconds=args.media_seconds,
            private_addresses=args.allow_private_urls,
        )
        return cls(args.host, args.port, settings, sources, args.events, tuple(args.webhook))


def is_loopback(host: str) -> bool:
    """Whether an address is of this machine alone."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def make_parser() -> argparse.ArgumentParser:
    """The flags."""
    from vcls_model.serving.http.flags import add_flags
    from vcls_model.serving.live.opening import add_model_flags

    parser = Parser(prog="python -m vcls_model.serve", description=first_line(__doc__))
    add_model_flags(parser)
    add_flags(parser)
    return parser


def run(argv: Sequence[str] | None = None) -> None:
    """Serves until SIGTERM or SIGINT, then answers what is under way and returns.

    Raises:
        UsageError: a flag is wrong, or the model cannot be served.
        JobError: the address cannot be had.
    """
    args = parse_all(make_parser(), argv)
    config = ServeConfig.of(args)
    from vcls_model.serving.live.opening import engine_options, open_model

    options = engine_options(args, most_streams=args.streams, encoder_threads=args.encoder_threads)
    if not is_loopback(config.host) and config.settings.token is None:
        print(
            f"WARNING: {config.host} can be reached from other machines, and without --token everyone there may use "
            "this service",
            file=sys.stderr,
            flush=True,
        )
    model = open_model(args, args.name)
    if config.sources and model.media is None:
        raise UsageError(f"--source needs a model whose data were made from media; those of {args.model} were not")

    from vcls_model.serving.http.logs import log_lines_of_json
    from vcls_model.serving.http.metrics import Metrics
    from vcls_model.serving.live.engine import Engine

    log_lines_of_json()
    metrics = Metrics()
    engine = Engine(model, options, observe_frame=metrics.observe_frame, observe_batch=metrics.observe_batch)
    metrics.watch(engine)
    # Imported while the engine's decoding processes start.
    from vcls_model.serving.http.app import make_app
    from vcls_model.serving.http.server import serve
    from vcls_model.serving.http.service import Service
    from vcls_model.serving.http.sources import SourceRoutes
    from vcls_model.serving.live.sinks import EventSink, LinesFile, Webhook

    service = Service(engine, config.settings, metrics)
    service.warm_up()
    gc.collect()
    gc.freeze()  # what is loaded stays: to look through it again and again would halt all streams meanwhile
    sinks: list[EventSink] = [Webhook(url) for url in config.webhooks]
    if config.events is not None:
        sinks.append(LinesFile(config.events))
    app = make_app(service, SourceRoutes(service, config.sources, sinks))
    try:
        serve(app, config.host, config.port, config.settings)
    except OSError as error:
        raise JobError(f"cannot listen on {config.host}:{config.port}: {error.strerror or error}") from None
    finally:
        engine.shut_down()


def command() -> NoReturn:
    """The console script."""
    main(run)


if __name__ == "__main__":
    command()
