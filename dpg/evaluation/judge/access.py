"""Access to a chat-completions server: key, address, proxies, and a client made of them.

Environment variables are checked here, before the first call: the HTTP client reports a malformed
value with a traceback that may quote it. No message shows a key or a password.
"""

from __future__ import annotations

import importlib.util
import os
import re
from typing import TYPE_CHECKING
from urllib.parse import urlsplit
from urllib.request import getproxies

from dpg.errors import DpgError

if TYPE_CHECKING:
    import openai

KEY_VARIABLE = "OPENAI_API_KEY"
URL_VARIABLE = "OPENAI_BASE_URL"
OPENAI_URL = "https://api.openai.com/v1"

_HEADER_VARIABLES = ("OPENAI_ORG_ID", "OPENAI_PROJECT_ID", "OPENAI_CUSTOM_HEADERS")
_TLS_VARIABLES = ("SSL_CERT_FILE", "SSL_CERT_DIR")
_PROXY_SCHEMES = ("http", "https", "socks5", "socks5h")


def open_client(base_url: str | None, timeout: float) -> openai.OpenAI:
    """Return a client that makes no retries of its own.

    Args:
        base_url: the server; None: OPENAI_BASE_URL, or OpenAI.
        timeout: seconds to wait for one reply.

    Raises:
        DpgError: no key, or one with characters that no key has; a malformed address or proxy; a
            SOCKS proxy without socksio; a missing certificate file; openai is not installed.
    """
    key = read_key()
    address = server_address(base_url)
    _check_proxies()
    _check_headers()
    try:
        import openai
    except ImportError as error:
        raise DpgError("the OpenAI judge needs the openai client: pip install openai") from error
    try:
        # Each attempt is counted, and paid from a budget, by the judge.
        return openai.OpenAI(api_key=key, base_url=address, timeout=timeout, max_retries=0)
    except Exception as error:  # httpx's InvalidURL derives from Exception alone
        reason = error.strerror if isinstance(error, OSError) else type(error).__name__
        names = [*proxies(), *(name for name in _TLS_VARIABLES if os.environ.get(name))]
        raise DpgError(
            f"judge: no connection can be set up ({reason}); check the environment variables for "
            f"the connection: {', '.join(names) or 'none is set'}"
        ) from None  # the cause may quote a password


def read_key() -> str:
    """Return the key from the environment, without blanks around it.

    Raises:
        DpgError: the key is missing, or has a character that no key can have.
    """
    key = os.environ.get(KEY_VARIABLE, "").strip()
    if not key:
        raise DpgError(
            f"the OpenAI judge needs a key: the environment variable {KEY_VARIABLE} is not set. "
            "Set it, or use the offline judge (judge: {kind: offline}), which needs none"
        )
    for place, character in enumerate(key, 1):
        odd = _odd(character)
        if odd:
            raise DpgError(
                f"judge: the key in {KEY_VARIABLE} has {odd} at place {place} of {len(key)}, "
                "expected only ASCII letters, digits and punctuation; set the key again, without "
                "quotes, blanks and line breaks"
            )
    return key


def _odd(character: str) -> str:
    """Name a character that cannot be part of a key, or return ""."""
    if character in "\r\n":
        return "a line break"
    if character.isspace():
        return "a blank"
    if character in "\"'`\u201c\u201d\u201e\u2018\u2019":
        return "a quotation mark"
    if not character.isascii():
        return "a character that is not ASCII"
    return "" if character.isprintable() else "a control character"


def server_address(base_url: str | None) -> str:
    """Return the server's URL: the setting, else OPENAI_BASE_URL, else OpenAI's own.

    Raises:
        DpgError: it is not the URL of a server.
    """
    source = "base_url" if base_url else URL_VARIABLE
    address = (base_url or os.environ.get(URL_VARIABLE) or "").strip()
    if not address:
        return OPENAI_URL
    problem = _url_problem(address, ("http", "https"))
    if problem:
        raise DpgError(
            f"judge: {source} {public(address)!r} {problem}; expected a URL such as "
            "'http://localhost:8000/v1'"
        )
    return address


def public(address: str) -> str:
    """Return a URL without user name, password, query and fragment, which may be secret."""
    begin = re.match(r"[A-Za-z][A-Za-z0-9+.-]*://", address)
    scheme = begin.group() if begin else ""
    rest = address[len(scheme) :].rpartition("@")[2]
    return scheme + re.split(r"[?#]", rest)[0]


def _url_problem(address: str, schemes: tuple[str, ...]) -> str:
    """Return what is wrong with a URL, or ""."""
    if any(c.isspace() or not c.isprintable() for c in address):
        return "has a blank, a line break or a control character"
    try:
        parts = urlsplit(address)
        host, _ = parts.hostname or "", parts.port
        host.encode("idna")  # each part of 1 to 63 characters
    except UnicodeError:
        return "has a host name that no server can have"
    except ValueError:
        return "has no valid host or port"
    if parts.scheme not in schemes or "://" not in address:
        return f"does not begin with {', '.join(f'{scheme}://' for scheme in schemes)}"
    return "" if host else "names no host"


# --------------------------------------------------------------------------------------- proxies


def proxies() -> dict[str, str]:
    """Return the proxies that a client will use: the variable's name -> its value."""
    found = getproxies()  # as httpx does: the environment, else the system's settings
    if "*" in (host.strip() for host in found.get("no", "").split(",")):
        return {}
    used = {scheme: found[scheme] for scheme in ("http", "https", "all") if found.get(scheme)}
    return {_variable(scheme): value for scheme, value in used.items()}


def _variable(scheme: str) -> str:
    name = f"{scheme}_proxy"
    if os.environ.get(name):
        return name
    return name.upper() if os.environ.get(name.upper()) else f"the system's {scheme} proxy"


def _check_proxies() -> None:
    """Check every proxy: the client opens all of them, even those that the server does not need."""
    for name, value in proxies().items():
        address = value if "://" in value else f"http://{value}"
        problem = _url_problem(address, _PROXY_SCHEMES)
        if problem:
            raise DpgError(
                f"judge: {name} {problem}, expected a URL such as 'http://host:8080'; "
                f"correct {name} or unset it"
            )
        if address.startswith("socks") and importlib.util.find_spec("socksio") is None:
            raise DpgError(
                f"judge: {name} names a SOCKS proxy, which needs the package socksio; "
                f"pip install socksio, or unset {name}"
            )


def _check_headers() -> None:
    """Check the variables that the client sends unchanged as HTTP headers."""
    for name in _HEADER_VARIABLES:
        lines = os.environ.get(name, "")
        if name == "OPENAI_CUSTOM_HEADERS":
            lines = lines.replace("\n", "")
        if not (lines.isascii() and lines.isprintable()):
            raise DpgError(
                f"judge: {name} has a character that no HTTP header may have, expected printable "
                f"ASCII; correct {name} or unset it"
            )
