"""Which proxy leads to a coordinator: the owner's settings say so, and where they say nothing the environment."""

from __future__ import annotations

from collections.abc import Mapping
from ipaddress import ip_address
from urllib.parse import urlsplit

from tacit.models.errors import InputError

DIRECT = "none"  # in the settings: no proxy, whatever the environment says
VARIABLES = ("https_proxy", "HTTPS_PROXY")  # as everywhere, the first one counts
EXCEPTIONS = ("no_proxy", "NO_PROXY")
Proxy = tuple[str, int]


def proxy_to(host: str, setting: str, environ: Mapping[str, str]) -> Proxy | None:
    """Return host and port of the proxy on the way to a host; None for a direct way.

    Args:
        host: the coordinator's.
        setting: `http://HOST:PORT`, `DIRECT`, or empty for what the environment says.
        environ: `HTTPS_PROXY` and `NO_PROXY` are looked at. To this machine's loopback they lead nowhere.

    Raises:
        InputError: the environment names a proxy that cannot be used; what it says is not repeated, as it may hold a
            password.
    """
    if setting:
        return None if setting == DIRECT else read_proxy(setting)
    named = next((environ[name] for name in VARIABLES if environ.get(name)), "")
    spared = next((environ[name] for name in EXCEPTIONS if environ.get(name)), "")
    if not named or _is_loopback(host) or _is_spared(host, spared):
        return None
    found = read_proxy(named if "://" in named else f"http://{named}")
    if found is None:
        raise InputError(
            "is no proxy that an agent can use",
            where="HTTPS_PROXY",
            right='http://HOST:PORT without a password, or proxy = "none" in settings.toml',
        )
    return found


def read_proxy(text: str) -> Proxy | None:
    """Return host and port of `http://HOST:PORT`; None if it is anything else."""
    try:
        found = urlsplit(text)
        host, port = found.hostname, found.port
    except ValueError:
        return None
    plain = found.path in ("", "/") and not (found.query or found.fragment or found.username or found.password)
    return (host, port) if found.scheme == "http" and host and port and plain else None


def _is_spared(host: str, exceptions: str) -> bool:
    """Return whether a host is one of the exceptions, or below one of them."""
    names = [name.strip().lower().lstrip(".") for name in exceptions.split(",") if name.strip(" .")]
    return "*" in names or any(host.lower() == name or host.lower().endswith(f".{name}") for name in names)


def _is_loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return False
