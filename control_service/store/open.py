"""From a setting to the store that it names."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

from control_service.store.protocol import Store
from control_service.store.sqlite import SqliteStore

REDIS_SCHEMES: Final = ("redis", "rediss", "unix")
LOCATION_FORMS: Final = (
    "an absolute path, redis://host:port/db, rediss://host:port/db, unix:///socket?db=0, or empty"
)


def check_location(text: str) -> str:
    """The location as it is to be used, `~` resolved. Raises ValueError; passwords are not in its text."""
    if "://" not in text:
        if text and not Path(text).expanduser().is_absolute():
            raise ValueError(f"{text!r} is not allowed; must be {LOCATION_FORMS}")
        return str(Path(text).expanduser()) if text else ""
    url = urlsplit(text)
    place = url.path if url.scheme == "unix" else url.hostname
    if url.scheme not in REDIS_SCHEMES or not place or not _has_usable_port(text):
        raise ValueError(f"{without_password(text)!r} is not allowed; must be {LOCATION_FORMS}")
    try:
        pool = importlib.import_module("redis").ConnectionPool.from_url(text)
        # Connects to nothing yet, and finds options that nobody knows.
        pool.make_connection()
    except ImportError as error:
        raise ValueError(
            f"{without_password(text)!r} needs the Redis client, which is not installed:"
            " pip install 'turbospec[redis]'"
        ) from error
    except (TypeError, ValueError) as error:
        raise ValueError(
            f"{without_password(text)!r}: an option after '?' is not allowed ({error})"
        ) from error
    return text


def open_store(location: str) -> Store | None:
    """The store at a location that `check_location` has passed; None for the empty one. Does no I/O."""
    if not location:
        return None
    if "://" not in location:
        return SqliteStore(Path(location))
    # Only here, so that the client is needed only where it is used.
    module = importlib.import_module("control_service.store.redis")
    store: Store = module.RedisStore(location, without_password(location))
    return store


def without_password(url: str) -> str:
    """Scheme and place of a URL, fit for a log: user, password and query are left out."""
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}"


def _has_usable_port(url: str) -> bool:
    try:
        return urlsplit(url).port != 0
    except ValueError:
        return False
