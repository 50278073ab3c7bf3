"""Media from addresses that a request names: of http and https, public ones alone, within bounds."""

import http.client
import ipaddress
import socket
import ssl
import time
from urllib.parse import SplitResult, urljoin, urlsplit

from vcls_model import storage
from vcls_model.serving.http.bodies import RefusedError

_SCHEMES = {"http": 80, "https": 443}
_MOST_HOPS = 5
_CHUNK = 1 << 18


def fetch(url: str, target: str, most_bytes: int, seconds: float, private_addresses: bool = False) -> None:
    """Downloads a file.

    A host's name is looked up once, and what is checked is what is connected to; each redirection is checked again.

    Args:
        url: address.
        target: path of the file to write.
        most_bytes: of the file.
        seconds: for all of it.
        private_addresses: whether addresses that are not public may be connected to.

    Raises:
        RefusedError: 400 for an address that is not allowed, 413 for a file that is too large, 502 where it cannot be
            had.
    """
    deadline = time.monotonic() + seconds
    for _ in range(_MOST_HOPS):
        parts = _checked(url)
        connection = _connect(parts, private_addresses, deadline)
        try:
            path = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
            connection.request("GET", path, headers={"Accept": "*/*", "User-Agent": "vcls"})
            response = connection.getresponse()
            if response.status in (301, 302, 303, 307, 308):
                url = urljoin(url, response.getheader("Location", ""))
                continue
            if response.status != 200:
                raise RefusedError(502, f"the address answered with status {response.status}")
            _save(response, target, most_bytes, deadline)
            return
        except (OSError, http.client.HTTPException, ValueError):
            raise RefusedError(502, "the file could not be had from that address") from None
        finally:
            connection.close()
    raise RefusedError(502, f"the address leads on more than {_MOST_HOPS} times")


def _checked(url: str) -> SplitResult:
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError:
        raise RefusedError(400, "that is not an address") from None
    if parts.scheme not in _SCHEMES or not parts.hostname or parts.username is not None:
        raise RefusedError(400, "an address begins with http:// or https:// and holds no user name")
    if any(ord(letter) <= 32 or ord(letter) == 127 for letter in url) or port == 0:
        raise RefusedError(400, "that is not an address")
    return parts


def _connect(parts: SplitResult, private_addresses: bool, deadline: float) -> http.client.HTTPConnection:
    host = parts.hostname or ""
    port = parts.port or _SCHEMES[parts.scheme]
    try:
        places = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError):
        raise RefusedError(502, "the host of that address is not known") from None
    for *_, place in places:
        address = ipaddress.ip_address(str(place[0]).partition("%")[0])
        if not private_addresses and not _is_public(address):
            raise RefusedError(400, "that address is not public; the service's --allow_private_urls would allow it")
    left = max(0.1, deadline - time.monotonic())
    connection = http.client.HTTPConnection(host, port, timeout=left)
    try:
        plain = socket.create_connection((str(places[0][4][0]), port), timeout=left)
        secure = parts.scheme == "https"
        connection.sock = ssl.create_default_context().wrap_socket(plain, server_hostname=host) if secure else plain
    except (OSError, ValueError):
        raise RefusedError(502, "there is no connection to that address") from None
    return connection


def _is_public(address: ipaddress.IPv4Address | ipaddress.IPv6Address) -> bool:
    mapped = getattr(address, "ipv4_mapped", None) or getattr(address, "sixtofour", None)
    if mapped is not None:
        return _is_public(mapped)
    return address.is_global and not address.is_multicast


def _save(response: http.client.HTTPResponse, target: str, most_bytes: int, deadline: float) -> None:
    size = 0
    with storage.open_atomically(target) as file:
        while chunk := response.read1(_CHUNK):
            size += len(chunk)
            if size > most_bytes:
                raise RefusedError(413, f"the file is longer than the {most_bytes:,} bytes that are taken")
            if time.monotonic() > deadline:
                raise RefusedError(502, "the address sends its file too slowly")
            file.write(chunk)
