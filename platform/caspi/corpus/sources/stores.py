"""Which store a path is in, and how it is reached.

The stores' variables are read as their own tools read them. S3: credentials and profiles by Amazon's chain
(`AWS_ACCESS_KEY_ID`, `AWS_PROFILE`, ...), `AWS_REGION` or `AWS_DEFAULT_REGION`, `AWS_ENDPOINT_URL_S3` or
`AWS_ENDPOINT_URL` for other makers' stores, and `AWS_NO_SIGN_REQUEST=1` for public buckets. Google:
`GOOGLE_APPLICATION_CREDENTIALS` and what `gcloud` left. The hub: `HF_TOKEN`.
"""

import datetime
import os
from functools import lru_cache

import fsspec  # type: ignore[import-untyped]
from fsspec.implementations.arrow import ArrowFSWrapper  # type: ignore[import-untyped]
from pyarrow import fs as arrow_fs

from caspi.errors import SourceError

# Arrow brings these stores in its own library; anything else that fsspec knows needs that protocol's package.
_ARROW_SCHEMES = ("s3", "gs", "gcs")


class UnknownStore(SourceError):
    """Nothing here can read URLs of this scheme."""


def open_filesystem(path: str) -> tuple[fsspec.AbstractFileSystem, str]:
    """The file system of a path or URL, and the path within it.

    Raises:
        UnknownStore: nothing here can read URLs of this kind.
    """
    scheme, separator, rest = path.partition("://")
    if not separator:
        scheme, rest = "file", path
    try:
        if scheme in _ARROW_SCHEMES:
            bucket = rest.partition("/")[0]
            # Arrow's own way of splitting URLs would end a name at the first `#` or `?`.
            return _arrow_filesystem(scheme, bucket, *_store_environment()), rest.rstrip("/")
        filesystem = fsspec.filesystem(scheme)
        return filesystem, filesystem._strip_protocol(path)
    except (ImportError, ValueError, OSError) as error:
        raise UnknownStore(f"{path}: cannot read {scheme}:// here: {error}") from error


def _store_environment() -> tuple[str | None, str | None, bool]:
    """Endpoint, region and whether to ask unsigned."""
    env = os.environ
    return (
        env.get("AWS_ENDPOINT_URL_S3") or env.get("AWS_ENDPOINT_URL") or None,
        env.get("AWS_REGION") or env.get("AWS_DEFAULT_REGION") or None,
        env.get("AWS_NO_SIGN_REQUEST", "").lower() in ("1", "true", "yes"),
    )


@lru_cache(maxsize=64)
def _arrow_filesystem(
    scheme: str, bucket: str, endpoint: str | None, region: str | None, is_anonymous: bool
) -> fsspec.AbstractFileSystem:
    if scheme == "s3":
        # A store of another maker has no regions to look up; it only wants one in the signature.
        region = region or ("us-east-1" if endpoint else _look_up_region(bucket))
        store = arrow_fs.S3FileSystem(
            region=region,
            endpoint_override=endpoint,
            anonymous=is_anonymous,
            connect_timeout=10,
            request_timeout=30,
            # For a single lost packet; whole outages are `ask`'s, which says so in the log.
            retry_strategy=arrow_fs.AwsStandardS3RetryStrategy(max_attempts=2),
        )
    else:
        store = arrow_fs.GcsFileSystem(retry_time_limit=datetime.timedelta(seconds=30))
    return ArrowFSWrapper(store)


def _look_up_region(bucket: str) -> str | None:
    try:
        return arrow_fs.resolve_s3_region(bucket)
    except (OSError, ValueError):
        return None  # the request itself will say better what is wrong
