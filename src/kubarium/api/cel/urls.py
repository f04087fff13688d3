"""URLs as Kubernetes' ``url()`` takes them: absolute ones, and absolute paths.

What is wrong with one, and how it is taken apart, is as Go's ``net/url`` has it. Sources:
``url.go``, apiserver ``cel/library/urls.go``.
"""

from __future__ import annotations

import re
from urllib.parse import SplitResult, quote, unquote

from kubarium.api.cel.addresses import address_fault, quoted

_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*):")
_ESCAPE = re.compile(r"%(?![0-9A-Fa-f]{2}).{0,2}", re.DOTALL)
# In a host only bytes that are not ASCII may be escaped, and the sign itself.
_HOST_ESCAPE = re.compile(r"%(?:[0-7](?<!2)[0-9A-Fa-f]|2[0-46-9A-Fa-f])")
_NOT_IN_HOST = re.compile(r"[^A-Za-z0-9\-_.~!$&'()*+,;=:\[\]<>\"%\u0080-\U0010ffff]")
_USER = re.compile(r"[A-Za-z0-9\-._:~!$&'()*+,;=%@]*")
_PATH = re.compile(r"(?:[A-Za-z0-9\-_.~$&+,/:;=@!'()*\[\]]|%[0-9A-Fa-f]{2})*")


class UrlError(ValueError):
    """No URL; the text is upstream's."""


def read_url(text: str) -> SplitResult:
    """Raises UrlError. Upstream reads it twice: as a request's, and then with its fragment."""
    check_url(text)
    whole, _, fragment = text.partition("#")
    if fault := _fault(whole, request=False):
        raise _error(whole, fault)
    if fault := _escape_fault(fragment):
        raise _error(text, fault)
    return split(text)


def check_url(text: str) -> None:
    """Raises UrlError of a text that is not even a request's URL."""
    if fault := _fault(text, request=True):
        raise _error(text, fault)


def _error(text: str, fault: str) -> UrlError:
    return UrlError(f"URL parse error during conversion from string: parse {quoted(text)}: {fault}")


def split(text: str) -> SplitResult:
    """The parts of a valid URL."""
    text, _, fragment = text.partition("#")
    scheme, rest = _scheme_and_rest(text)
    path, _, query = rest.partition("?")
    authority, path = _authority_and_path(scheme, path)
    return SplitResult(scheme, authority, path, query, fragment)


def joined(url: SplitResult) -> str:
    """The text that :func:`split` takes apart so."""
    slashes = "//" if url.netloc or (url.scheme and url.path.startswith("//")) else ""
    scheme = f"{url.scheme}:" if url.scheme else ""
    query = f"?{url.query}" if url.query else ""
    fragment = f"#{url.fragment}" if url.fragment else ""
    return f"{scheme}{slashes}{url.netloc}{url.path}{query}{fragment}"


def _scheme_and_rest(text: str) -> tuple[str, str]:
    match = _SCHEME.match(text)
    return (match[1].lower(), text[match.end() :]) if match else ("", text)


def _authority_and_path(scheme: str, rest: str, *, request: bool = False) -> tuple[str, str]:
    if rest.startswith("//") and (scheme or not (request or rest.startswith("///"))):
        authority, slash, path = rest[2:].partition("/")
        return authority, slash + path
    return "", rest


def host_of(url: SplitResult) -> str:
    """With the port."""
    return unquote(url.netloc.rpartition("@")[2])


def name_of(url: SplitResult) -> str:
    """The host without port and brackets."""
    name = _name_and_port(host_of(url))[0]
    return name[1:-1] if name.startswith("[") and name.endswith("]") else name


def port_of(url: SplitResult) -> str:
    """As it is written; "" if there is none."""
    return _name_and_port(host_of(url))[1]


def escaped_path(url: SplitResult) -> str:
    """As it is written if it is escaped right. A URL without a slash after its scheme has none."""
    path = url.path
    if url.scheme and not url.netloc and not path.startswith("/"):
        return ""
    return path if _PATH.fullmatch(path) else quote(unquote(path), safe="$&+,/:;=@-_.~")


def _name_and_port(host: str) -> tuple[str, str]:
    name, colon, port = host.rpartition(":")
    return (name, port) if colon and re.fullmatch("[0-9]*", port) else (host, "")


def _fault(text: str, *, request: bool) -> str:
    if any(ord(char) < 32 or ord(char) == 127 for char in text):
        return "net/url: invalid control character in URL"
    if text in ("", "*"):
        return "empty url" if request and not text else ""
    if text.startswith(":"):
        return "missing protocol scheme"
    scheme, rest = _scheme_and_rest(text)
    path = rest.partition("?")[0]
    if not path.startswith("/"):
        return "" if scheme or not request else "invalid URI for request"
    authority, path = _authority_and_path(scheme, path, request=request)
    return _authority_fault(scheme, authority) or _escape_fault(path)


def _escape_fault(text: str) -> str:
    found = _ESCAPE.search(text)
    return f"invalid URL escape {quoted(found[0])}" if found else ""


def _authority_fault(scheme: str, authority: str) -> str:
    user, _, host = authority.rpartition("@")
    fault = _literal_fault(host) if "[" in host else _host_fault(scheme, host)
    if fault:
        return fault
    return _escape_fault(user) if _USER.fullmatch(user) else "net/url: invalid userinfo"


def _literal_fault(host: str) -> str:
    """Of an address in brackets."""
    if host.rfind("[") > 0:
        return "invalid IP-literal"
    name, bracket, port = host[1:].rpartition("]")
    if not bracket:
        return "missing ']' in host"
    if not re.fullmatch("(?::[0-9]*)?", port):
        return f"invalid port {quoted(port)} after host"
    plain, zone, rest = name.partition("%25")
    fault = _part_fault(plain) or _escape_fault(rest)
    if fault:
        return fault
    address = plain + ("%" if zone else "") + unquote(rest)
    said = address_fault(address)
    if said:
        return f"invalid host: {said}"
    return "" if ":" in address else "invalid IP-literal"


def _host_fault(scheme: str, host: str) -> str:
    strict = scheme in ("http", "https")
    at = host.find(":") if strict else host.rfind(":")
    port = host[at:] if at >= 0 else ""
    if not re.fullmatch("(?::[0-9]*)?", port):
        return f"invalid port {quoted(port)} after host"
    return _part_fault(host)


def _part_fault(host: str) -> str:
    """The first of what a host may not have in it."""
    searches = (_ESCAPE.search(host), _HOST_ESCAPE.search(host))
    escapes = [found for found in searches if found]
    strange = _NOT_IN_HOST.search(host)
    if escapes:  # as upstream: all escapes are looked at up to the first strange character
        first = min(escapes, key=lambda found: found.start())
        if not strange or first.start() < strange.start():
            return f"invalid URL escape {quoted(first[0])}"
    return f"invalid character {quoted(strange[0])} in host name" if strange else ""
