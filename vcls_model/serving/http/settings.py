"""What a service allows, and whom."""

import dataclasses


@dataclasses.dataclass(frozen=True)
class ServiceSettings:
    """Bounds and doors of a service.

    Attributes:
        token: what clients must show; None: anyone who reaches the address may come in.
        hosts: names in the `Host` header that are answered, against pages that point their own name at this machine;
            empty: any.
        origins: web origins, other than the service's own, whose pages may use it.
        most_body_bytes: of a request for predictions.
        most_bodies_bytes: of all such requests that are being read.
        most_media_bytes, most_media_seconds: of a file to label.
        most_message_bytes: of a message of a live stream.
        most_requests: predictions under way at once.
        most_files: files that are labelled at once.
        most_records: records per request.
        most_frames_per_second: of one stream, on average.
        idle_seconds: after which a stream that sends nothing, or a request that stalls, is ended.
        header_seconds: for a client to send a whole request header.
        most_connections: open at once.
        private_addresses: whether URLs may name addresses that are not public.
    """

    token: str | None = None
    hosts: tuple[str, ...] = ()
    origins: tuple[str, ...] = ()
    most_body_bytes: int = 64 << 20
    most_bodies_bytes: int = 256 << 20
    most_media_bytes: int = 1 << 30
    most_media_seconds: float = 3600.0
    most_message_bytes: int = 4 << 20
    most_requests: int = 128
    most_files: int = 2
    most_records: int = 1024
    most_frames_per_second: float = 30.0
    idle_seconds: float = 30.0
    header_seconds: float = 10.0
    most_connections: int = 2048
    private_addresses: bool = False
