"""What the environment says of connections: proxies, and files of certificates and of TLS keys."""

import importlib.util
import ipaddress
import os
import socket
import ssl
from dataclasses import dataclass
from urllib.parse import urlsplit
from urllib.request import getproxies

from command.errors import OptionError
from command.secrets import register_url, without_password

PROXY_SCHEMES = ("http", "https", "socks5", "socks5h")
_MODULES = {"socksio": "socksio", "PySocks": "socks"}
_LOCAL_NAMES = ("localhost", "localhost.localdomain", "localhost6", "ip6-localhost", "ip6-loopback")


@dataclass(frozen=True)
class Proxy:
    """A proxy, and the environment variable that names it."""

    url: str
    variable: str

    @property
    def shown(self) -> str:
        """How it is named in messages."""
        return f"the proxy {without_password(self.url)} ({self.variable})"


def is_own(name: str) -> bool:
    """Whether a host name or address is this machine: loopback, its own name, or one of its own addresses."""
    name = name.lower().rstrip(".").partition("%")[0]
    if name in _LOCAL_NAMES or name.endswith(".localhost"):
        return True
    try:
        address = ipaddress.ip_address(name)
    except ValueError:
        try:
            address = ipaddress.ip_address(socket.inet_aton(name))  # 127.1, 2130706433
        except (OSError, UnicodeError):
            return _is_own_name(name)
    address = getattr(address, "ipv4_mapped", None) or address
    return address.is_loopback or address.is_unspecified or _is_own_address(address)


def _is_own_name(name: str) -> bool:
    own = socket.gethostname().lower()
    if name == own:
        return True
    return name.split(".")[0] == own.split(".")[0] and name == socket.getfqdn().lower()


def _is_own_address(address: ipaddress.IPv4Address | ipaddress.IPv6Address) -> bool:
    family = socket.AF_INET if address.version == 4 else socket.AF_INET6
    try:
        with socket.socket(family, socket.SOCK_DGRAM) as probe:
            probe.bind((str(address), 0))
    except OSError:
        return False
    return True


def proxy_for(url: str, socks: str = "socksio") -> Proxy | None:
    """The proxy by which a URL is reached, None for none: servers of this machine are reached without one.

    Args:
        socks: the package that whatever asks needs for a socks proxy.

    Raises:
        OptionError: it cannot be used; the message names the variable.
    """
    parts = urlsplit(url)
    proxies = getproxies()
    kind = parts.scheme.lower() if proxies.get(parts.scheme.lower()) else "all"
    told = proxies.get(kind)
    if not told or not parts.hostname or is_own(parts.hostname):
        return None
    if _is_excepted(parts.hostname, parts.port, proxies.get("no", "")):
        return None
    variable = next((name for name in (f"{kind}_proxy", f"{kind}_proxy".upper()) if os.environ.get(name)), "")
    variable = variable or "the system's settings"
    register_url(told if "://" in told else f"http://{told}")
    return Proxy(_usable(told, variable, parts.hostname, socks), variable)


def _usable(told: str, variable: str, host: str, socks: str) -> str:
    url, remedy = told if "://" in told else f"http://{told}", f"mend or unset it, or put {host} into NO_PROXY"
    try:
        parts = urlsplit(url)
        well_formed = bool(parts.hostname) and parts.port != 0 and not any(c.isspace() for c in url)
    except ValueError:
        well_formed = False
    if not well_formed:
        raise OptionError(f"{variable} is no URL of a proxy: {without_password(url)!r}; {remedy}")
    scheme = parts.scheme.lower()
    if scheme not in PROXY_SCHEMES:
        raise OptionError(
            f"{variable}: proxies of the kind {scheme!r} are not known here, but {', '.join(PROXY_SCHEMES)}; {remedy}"
        )
    if scheme.startswith("socks") and importlib.util.find_spec(_MODULES[socks]) is None:
        raise OptionError(f"{variable}: a {scheme} proxy needs the package {socks} (pip install {socks}); or {remedy}")
    return f"{scheme}{url[len(scheme) :]}"


def _is_excepted(host: str, port: int | None, no_proxy: str) -> bool:
    """Whether NO_PROXY names a host: by itself, by its domain, by its network."""
    host = host.lower().rstrip(".")
    for entry in no_proxy.lower().split(","):
        entry = entry.strip().rpartition("://")[2]
        if entry == "*":
            return True
        try:
            if ipaddress.ip_address(host) in ipaddress.ip_network(entry.strip("[]"), strict=False):
                return True
        except ValueError:
            pass
        name, mark, number = entry.rpartition(":")
        if mark and number.isdigit() and ":" not in name.strip("[]"):
            if port != int(number):
                continue
            entry = name
        entry = entry.strip("[]").removeprefix("*").strip(".")
        if entry and (host == entry or host.endswith(f".{entry}")):
            return True
    return False


def check_certificates() -> None:
    """Raise OptionError where a variable of TLS names what is not there or cannot be read; libraries fail at it in odd ways."""
    remedy = "mend or unset it"
    if path := os.environ.get("SSL_CERT_FILE"):
        if not os.path.isfile(path):
            raise OptionError(f"SSL_CERT_FILE names no file ({path}); {remedy}")
        try:
            ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_verify_locations(cafile=path)
        except OSError as error:  # ssl's own are such, too
            reason = "no certificates in it" if isinstance(error, ssl.SSLError) else error.strerror
            raise OptionError(f"SSL_CERT_FILE cannot be used ({path}: {reason}); {remedy}") from None
    for path in filter(None, os.environ.get("SSL_CERT_DIR", "").split(os.pathsep)):
        if not os.path.isdir(path):
            raise OptionError(f"SSL_CERT_DIR names no folder ({path}); {remedy}")
        if not os.access(path, os.R_OK | os.X_OK):
            raise OptionError(f"SSL_CERT_DIR cannot be read ({path}); {remedy}")
    if path := os.environ.get("SSLKEYLOGFILE"):
        try:
            with open(path, "ab"):
                pass
        except OSError as error:
            raise OptionError(f"SSLKEYLOGFILE cannot be written ({path}: {error.strerror}); {remedy}") from None
