"""Who may reach the dashboard, as the command line and the environment say: token, address, proxy."""

import argparse
import ipaddress
import logging
import os
import re
import socket
import sys
from collections.abc import Mapping
from typing import NamedTuple
from urllib.parse import urlsplit

from streamlit import config

from ddpm.errors import UserError
from ddpm.storage import token

TOKEN = re.compile(r"[A-Za-z0-9_-]{16,256}")
EVERYWHERE = ("", "0.0.0.0", "::")  # every address of this computer
DEFAULT_PORTS = {"http": 80, "https": 443}  # of which a browser's Host and Origin say nothing
LOOPBACK_NAMES = ("localhost", "127.0.0.1", "[::1]")


class Access(NamedTuple):
    """Conditions of entry."""

    token: str  # "" where none is asked for
    address: str  # what the server listens on; "" for every address of this computer
    proxy: str = ""  # scheme, name and port of the user's own proxy or tunnel, as in https://ml.example.org

    @property
    def names(self) -> tuple[str, ...]:
        """Names under which a browser may reach this server."""
        own = socket.gethostname() if self.address in EVERYWHERE else bracketed(self.address)
        return (*LOOPBACK_NAMES, own.lower())

    def cookie(self, port: int) -> str:
        """Name of the cookie: browsers share cookies between all ports of a computer."""
        return f"ddpm-{port}"


def from_command_line() -> Access:
    """What `streamlit run app.py [options] [-- --no-token]` and the environment ask for; exits with 2 if refused."""
    logging.getLogger("uvicorn.error").setLevel(logging.WARNING)  # it prints an address that lacks the token
    parser = argparse.ArgumentParser(prog="streamlit run app.py [OPTIONS] --")
    parser.add_argument("--no-token", action="store_true", help="let anyone on this computer in (DDPM_NO_TOKEN=1)")
    asked = parser.parse_args(sys.argv[1:])
    try:
        return read(asked.no_token, os.environ, config.get_option("server.address"))
    except UserError as error:
        print(error, file=sys.stderr)
        raise SystemExit(2) from None


def read(no_token: bool, environment: Mapping[str, str], address: str | None) -> Access:
    """Combines flag, environment variables and the address that the server listens on.

    Raises UserError for a token that is too short, a proxy that is no address, and for an address beyond loopback
    without token and proxy.
    """
    proxy = _origin(environment.get("DDPM_PROXY", "").strip())
    given = environment.get("DDPM_TOKEN", "").strip()
    if given and not TOKEN.fullmatch(given):
        raise UserError(
            "DDPM_TOKEN is not usable as a token: it needs 16 to 256 letters, digits, - or _.", code="bad-value"
        )
    if no_token or environment.get("DDPM_NO_TOKEN", "").strip() not in ("", "0"):
        if not proxy and not is_loopback(address or ""):
            raise UserError(
                f"The dashboard would be open to everyone who reaches {address or 'this computer'}: leave out"
                " --no-token, listen on 127.0.0.1, or name your own proxy in DDPM_PROXY if it decides who comes in.",
                code="conflicting-settings",
            )
        return Access("", address or "", proxy)
    return Access(given or token.stored(), address or "", proxy)


def _origin(text: str) -> str:
    """Scheme, name and port in `text`, as a browser sends them; "" for "".  Raises UserError for another text."""
    if not text:
        return ""
    parts = urlsplit(text if "//" in text else f"https://{text}")
    if parts.scheme not in ("http", "https") or not parts.hostname or parts.username or parts.path.strip("/"):
        raise UserError(
            f"DDPM_PROXY is {text}, which is no address: write it as in https://ml.example.org.", code="bad-value"
        )
    return f"{parts.scheme}://{parts.netloc.lower().removesuffix(f':{DEFAULT_PORTS[parts.scheme]}')}"


def is_loopback(address: str) -> bool:
    """Whether `address` can be reached from this computer alone."""
    try:
        return ipaddress.ip_address(address).is_loopback
    except ValueError:
        return address == "localhost"


def bracketed(host: str) -> str:
    """`host` as it stands in an address: an IPv6 one in brackets."""
    return f"[{host}]" if ":" in host else host


def origin_of(door: Access, port: int, scheme: str = "http") -> str:
    """The dashboard's own origin, as in http://127.0.0.1:8501: the proxy's where there is one."""
    host = "localhost" if door.address in EVERYWHERE else bracketed(door.address)
    return door.proxy or f"{scheme}://{host}:{port}"
