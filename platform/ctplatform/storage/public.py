"""Public buckets, read without an account: which ones there are, what they hold, and one object after the other.

Anonymous reading is plain HTTPS: a listing, then a GET an object over connections that stay open. That is one round
trip a DICOM file, where file-system clients make two (size, then content), and it gives the store's MD5 of each
object. Amazon S3 REST API (ListObjectsV2, GetObject); Google Cloud Storage JSON API v1 (objects.list, objects.get).
"""

from __future__ import annotations

import base64
import hashlib
import http.client
import json
import re
import threading
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import parse_qs, quote, unquote, urlencode, urlsplit
from xml.etree import ElementTree

#: Buckets of the Imaging Data Commons, which Amazon and Google hold alike: S3 -> Google Cloud Storage.
IDC_BUCKETS = {
    "idc-open-data": "idc-open-data",
    "idc-open-data-two": "idc-open-idc1",
    "idc-open-data-cr": "idc-open-cr",
}
IDC_REGION = "us-east-1"
TIMEOUT_S = 60.0
#: Connections to one host that a process keeps open between requests.
MAX_IDLE = 32

_UUID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")
_CHUNK = 1 << 20
_REDIRECTS = (301, 302, 307, 308)


def public_uri(bucket: str, key: str, *, store: str = "s3") -> str:
    """The URI of a folder of an IDC bucket, named as on S3, on "s3" or "gs"."""
    return f"{store}://{bucket if store == 's3' else IDC_BUCKETS[bucket]}/{key}"


@dataclass(frozen=True)
class PublicPlace:
    """A folder of a public bucket.

    Attributes:
        store: "s3" or "gs".
        bucket: its name.
        key: of the folder, without a slash at the end.
        region: of S3.
        endpoint: HOST:PORT of another server; empty: that of Amazon or Google.
        scheme: "https" or "http".
    """

    store: str
    bucket: str
    key: str
    region: str = IDC_REGION
    endpoint: str = ""
    scheme: str = "https"

    @property
    def immutable(self) -> bool:
        """Whether its name changes whenever its content does, as the UUIDs of series do in IDC."""
        known = IDC_BUCKETS if self.store == "s3" else IDC_BUCKETS.values()
        return self.bucket in known and _UUID.fullmatch(self.key) is not None


@dataclass(frozen=True)
class Item:
    """One object: its key, bytes, and MD5 in hexadecimal (empty where the store has none)."""

    key: str
    size: int
    md5: str

    @property
    def name(self) -> str:
        return self.key.rpartition("/")[2]


class DamagedError(OSError):
    """What arrived is not what the store holds; another attempt may help."""


def public_place(uri: str) -> PublicPlace | None:
    """The folder that a URI names if it is to be read without an account, else None.

    Those are the buckets of the Imaging Data Commons, and any other whose URI says so: s3://anonymous@BUCKET/KEY or
    gs://anonymous@BUCKET/KEY, with the options region, endpoint_override and scheme as pyarrow takes them.
    """
    url = urlsplit(uri)
    user, mark, bucket = url.netloc.rpartition("@")
    known = {"s3": tuple(IDC_BUCKETS), "gs": tuple(IDC_BUCKETS.values())}.get(url.scheme)
    if known is None or not (user == "anonymous" if mark else bucket in known):
        return None
    options = {name: values[0] for name, values in parse_qs(url.query).items()}
    return PublicPlace(
        url.scheme,
        bucket,
        url.path.strip("/"),
        region=options.get("region", IDC_REGION),
        endpoint=options.get("endpoint_override", ""),
        scheme=options.get("scheme", "https"),
    )


class IdleConnections:
    """Open connections that wait for their next request, by (scheme, host); shared by the threads of a process.

    A series is some hundred requests on `series_cache.FETCHERS` connections. Kept open from one series to the next,
    they cost no TCP and TLS handshakes, which are three round trips each.
    """

    def __init__(self, most: int) -> None:
        self.most = most
        self._idle: dict[tuple[str, str], list[http.client.HTTPConnection]] = {}
        self._lock = threading.Lock()

    def take(self, scheme: str, host: str) -> http.client.HTTPConnection | None:
        """The one used last, which the server most likely still holds."""
        with self._lock:
            waiting = self._idle.get((scheme, host))
            return waiting.pop() if waiting else None

    def give(self, scheme: str, host: str, connection: http.client.HTTPConnection) -> None:
        """Keep a connection whose answer was read to its end; close it if `most` of this host wait already."""
        with self._lock:
            waiting = self._idle.setdefault((scheme, host), [])
            if len(waiting) < self.most:
                waiting.append(connection)
                return
        connection.close()


_IDLE = IdleConnections(MAX_IDLE)


class PublicBucket:
    """Reads one bucket; may be used by several threads."""

    def __init__(self, place: PublicPlace) -> None:
        self.place = place
        self.region = place.region

    def items(self) -> list[Item]:
        """The objects directly in the folder, by key; none if there is no such folder.

        Raises:
            FileNotFoundError: no such bucket.
            PermissionError: the bucket is not public.
            OSError: the store failed.
        """
        found: list[Item] = []
        token = ""
        while True:
            more, token = self._google_page(token) if self.place.store == "gs" else self._s3_page(token)
            found += (item for item in more if item.name)
            if not token:
                return sorted(found, key=lambda item: item.key)

    def fetch(self, item: Item, target: Path) -> None:
        """Write an object to a file, its size and MD5 checked. Raises as `items` does, and DamagedError."""
        if self.place.store == "gs":
            path = f"/storage/v1/b/{self.place.bucket}/o/{quote(item.key, safe='')}?alt=media"
        else:
            path = f"{self._s3_root()}/{quote(item.key)}"
        digest, size = hashlib.md5(usedforsecurity=False), 0
        with target.open("wb") as stream:
            for chunk in self._get(path):
                digest.update(chunk)
                size += len(chunk)
                stream.write(chunk)
        if size != item.size:
            raise DamagedError(f"connection: {size} of {item.size} bytes of an object arrived")
        if item.md5 and digest.hexdigest() != item.md5:
            raise DamagedError("connection: an object arrived with another MD5 than the store names")

    def _s3_root(self) -> str:
        """Buckets are host names, except at other servers and with dots, which certificates do not cover."""
        return f"/{self.place.bucket}" if self.place.endpoint or "." in self.place.bucket else ""

    def _host(self) -> str:
        if self.place.endpoint:
            return self.place.endpoint
        if self.place.store == "gs":
            return "storage.googleapis.com"
        host = f"s3.{self.region}.amazonaws.com"
        return host if self._s3_root() else f"{self.place.bucket}.{host}"

    def _s3_page(self, token: str) -> tuple[list[Item], str]:
        query = {"list-type": "2", "prefix": f"{self.place.key}/", "delimiter": "/"}
        query |= {"continuation-token": token} if token else {}
        root = ElementTree.fromstring(b"".join(self._get(f"{self._s3_root()}/?{urlencode(query)}")))
        items = []
        for entry in root.iterfind("{*}Contents"):
            etag = (entry.findtext("{*}ETag") or "").strip('"')
            # An object that was uploaded in parts has an ETag that is no MD5, with a dash in it.
            md5 = etag if re.fullmatch(r"[0-9a-f]{32}", etag) else ""
            items.append(Item(entry.findtext("{*}Key") or "", int(entry.findtext("{*}Size") or 0), md5))
        more = root.findtext("{*}IsTruncated") == "true"
        return items, (root.findtext("{*}NextContinuationToken") or "") if more else ""

    def _google_page(self, token: str) -> tuple[list[Item], str]:
        query = {"prefix": f"{self.place.key}/", "delimiter": "/"}
        query |= {"fields": "items(name,size,md5Hash),nextPageToken"}
        query |= {"pageToken": token} if token else {}
        page = json.loads(b"".join(self._get(f"/storage/v1/b/{self.place.bucket}/o?{urlencode(query)}")))
        items = [
            Item(entry["name"], int(entry["size"]), base64.b64decode(entry.get("md5Hash", "")).hex())
            for entry in page.get("items", ())
        ]
        return items, page.get("nextPageToken", "")

    def _get(self, path: str) -> Iterator[bytes]:
        """The body of an answer, in pieces."""
        for _ in range(3):
            host = self._host()
            connection, answer = self._asked(host, path)
            region = answer.getheader("x-amz-bucket-region")
            if answer.status in (400, *_REDIRECTS) and region and region != self.region:
                connection.close()
                self.region = region
                continue
            break
        whole = False
        try:
            if answer.status != 200:
                raise _refusal(answer.status)
            while chunk := _read(answer):
                yield chunk
            whole = True
        finally:
            # A connection in the middle of an answer cannot carry the next one.
            if whole and not answer.will_close:
                _IDLE.give(self.place.scheme, host, connection)
            else:
                connection.close()

    def _asked(self, host: str, path: str) -> tuple[http.client.HTTPConnection, http.client.HTTPResponse]:
        """A connection, and its answer up to the headers.

        Raises:
            OSError: the server cannot be reached, or does not speak HTTP.
        """
        connection = _IDLE.take(self.place.scheme, host)
        if connection is not None:
            try:
                return connection, _ask(connection, path)
            except (http.client.HTTPException, OSError):  # closed by the server while it waited
                connection.close()
        connection = self._connect(host)
        try:
            return connection, _ask(connection, path)
        except (http.client.HTTPException, OSError) as error:
            connection.close()
            raise OSError(f"connection: {type(error).__name__}") from error

    def _connect(self, host: str) -> http.client.HTTPConnection:
        kind = http.client.HTTPSConnection if self.place.scheme == "https" else http.client.HTTPConnection
        proxy = (
            urlsplit(urllib.request.getproxies().get("https", "")) if self.place.scheme == "https" else None
        )
        if not proxy or not proxy.hostname or urllib.request.proxy_bypass(host):
            return kind(host, timeout=TIMEOUT_S)
        connection = kind(proxy.hostname, proxy.port or 80, timeout=TIMEOUT_S)
        login = base64.b64encode(
            f"{unquote(proxy.username or '')}:{unquote(proxy.password or '')}".encode()
        ).decode()
        connection.set_tunnel(
            host, headers={"Proxy-Authorization": f"Basic {login}"} if proxy.username else {}
        )
        return connection


def _ask(connection: http.client.HTTPConnection, path: str) -> http.client.HTTPResponse:
    connection.request("GET", path, headers={"Accept-Encoding": "identity"})
    return connection.getresponse()


def _read(answer: http.client.HTTPResponse) -> bytes:
    try:
        return answer.read(_CHUNK)
    except (http.client.HTTPException, OSError) as error:
        raise OSError(f"connection: {type(error).__name__}") from error


def _refusal(status: int) -> OSError:
    """As `retry.is_transient` tells them apart: what is missing or forbidden stays so, the rest may pass."""
    text = f"HTTP status {status}"
    return {401: PermissionError, 403: PermissionError, 404: FileNotFoundError}.get(status, OSError)(text)
