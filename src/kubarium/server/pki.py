"""The cluster's own certificate authority, kept in a directory.

    ca.crt ca.key           signs everything below; what kubeconfigs trust
    apiserver.crt .key      the serving certificate
    client-NAME.crt .key    client certificates: CN is the user, each O a group
    sa.key                  signs ServiceAccount tokens
    front-proxy-ca.crt      would sign the certificates of front proxies; its key was never kept

Keys are ECDSA P-256: as strong as RSA-3072, and made in under a millisecond. Files are 0600 and
replaced whole. A certificate is used again as long as it says what is asked for, fits its key, is
signed by the CA and is not about to expire; otherwise a new one takes its place.
"""

from __future__ import annotations

import ipaddress
import os
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from kubarium.base.clock import Clock
from kubarium.base.errors import ConfigError
from kubarium.server.authn import User

CA_VALIDITY = timedelta(days=3650)
LEAF_VALIDITY = timedelta(days=365)

# A certificate with less than this left is issued anew; long enough that a cluster that is
# restarted once a month never serves an expired one.
RENEW_BEFORE = timedelta(days=30)

# Certificates start this long before now, for clients whose clock is behind.
BACKDATE = timedelta(hours=1)

# Upper bound of a common name and of an organisation name (RFC 5280, ub-common-name).
MAX_NAME_CHARACTERS = 64

SERVER_NAMES = (
    "localhost",
    "127.0.0.1",
    "::1",
    "kubernetes",
    "kubernetes.default",
    "kubernetes.default.svc",
    "kubernetes.default.svc.cluster.local",
)

_Key = ec.EllipticCurvePrivateKey


@dataclass(frozen=True, slots=True)
class Pair:
    """A certificate and its private key, as PEM and as files (for ``ssl.SSLContext``)."""

    certificate_pem: bytes
    key_pem: bytes
    certificate_path: Path
    key_path: Path


@dataclass(frozen=True, slots=True)
class _Wanted:
    """What a leaf certificate has to say."""

    common_name: str
    organizations: tuple[str, ...] = ()
    names: tuple[str, ...] = ()  # DNS names and IP addresses; a serving certificate has some

    @property
    def usage(self) -> x509.ObjectIdentifier:
        return ExtendedKeyUsageOID.SERVER_AUTH if self.names else ExtendedKeyUsageOID.CLIENT_AUTH

    @property
    def subject(self) -> x509.Name:
        groups = [x509.NameAttribute(NameOID.ORGANIZATION_NAME, o) for o in self.organizations]
        return x509.Name([*groups, x509.NameAttribute(NameOID.COMMON_NAME, self.common_name)])

    @property
    def alternative_names(self) -> list[x509.GeneralName]:
        return [_general_name(name) for name in dict.fromkeys(self.names)]


class Authority:
    """The CA of one cluster. :meth:`open` it on a directory; methods give current pairs."""

    def __init__(self, directory: Path, clock: Clock, pair: Pair, key: _Key) -> None:
        self.directory = directory
        self.pair = pair
        self._clock = clock
        self._key = key
        self._certificate = x509.load_pem_x509_certificate(pair.certificate_pem)

    @staticmethod
    def open(directory: Path, clock: Clock) -> Authority:
        """The CA in ``directory``, made there (0700) if there is none; ConfigError if unusable."""
        try:
            directory.mkdir(parents=True, exist_ok=True, mode=0o700)
            pair, key = _load_ca(directory) or _make_ca(directory, clock, None)
            certificate = x509.load_pem_x509_certificate(pair.certificate_pem)
            if _ends_soon(certificate, clock):
                # The same key: what it has signed stays valid, and so do tokens.
                pair, key = _make_ca(directory, clock, key)
        except OSError as error:
            raise ConfigError(
                f"{directory}: cannot keep the cluster's keys here: {error}"
            ) from error
        return Authority(directory, clock, pair, key)

    @property
    def ca_pem(self) -> bytes:
        """What clients trust (``certificate-authority-data``, ``kube-root-ca.crt``)."""
        return self.pair.certificate_pem

    @property
    def ca_path(self) -> Path:
        return self.pair.certificate_path

    def server(self, extra_names: Iterable[str] = ()) -> Pair:
        """The serving certificate for SERVER_NAMES and ``extra_names`` (DNS names or IPs)."""
        wanted = _Wanted("kube-apiserver", names=(*SERVER_NAMES, *extra_names))
        return self._pair("apiserver", wanted)

    def client(self, user: str, groups: Sequence[str] = ()) -> Pair:
        """A client certificate for ``user`` in ``groups``; ConfigError if X.509 has no room."""
        for name in (user, *groups):
            if not 0 < len(name) <= MAX_NAME_CHARACTERS:
                raise ConfigError(
                    f"{name!r} cannot stand in a certificate: it has {len(name)} characters, and "
                    f"X.509 allows 1 to {MAX_NAME_CHARACTERS}; use a token for this user"
                )
        return self._pair(f"client-{_file_name(user)}", _Wanted(user, tuple(groups)))

    def service_account_key(self) -> bytes:
        """The PEM key that signs ServiceAccount tokens; made once, never replaced."""
        path = self.directory / "sa.key"
        pem = _read(path)
        if pem is None:
            pem = _pem(ec.generate_private_key(ec.SECP256R1()))
            write_private(path, pem)
        elif _parse_key(pem) is None:
            raise ConfigError(
                f"{path}: not a P-256 private key in PEM. Restore the file, or remove it to have a "
                "new key made (all ServiceAccount tokens become invalid)"
            )
        return pem

    def front_proxy_ca(self) -> bytes:
        """The certificate (PEM) of a CA for front proxies, which may name users in headers.

        No API is proxied here, so that it signs nobody: its key is forgotten at once. Servers
        with delegated authentication want to be told of one.
        """
        path = self.directory / "front-proxy-ca.crt"
        pem = _read(path)
        if pem is not None and _is_valid(pem, self._clock):
            return pem
        key = ec.generate_private_key(ec.SECP256R1())
        pem = _self_signed("front-proxy-ca", key, self._clock)
        write_private(path, pem)
        return pem

    def _pair(self, name: str, wanted: _Wanted) -> Pair:
        certificate_path = self.directory / f"{name}.crt"
        key_path = self.directory / f"{name}.key"
        certificate_pem, key_pem = _read(certificate_path), _read(key_path)
        if certificate_pem and key_pem and self._still_good(certificate_pem, key_pem, wanted):
            return Pair(certificate_pem, key_pem, certificate_path, key_path)
        certificate_pem, key_pem = self._issue(wanted)
        # A crash between the two leaves a pair that does not fit, which is then made anew.
        write_private(key_path, key_pem)
        write_private(certificate_path, certificate_pem)
        return Pair(certificate_pem, key_pem, certificate_path, key_path)

    def _still_good(self, certificate_pem: bytes, key_pem: bytes, wanted: _Wanted) -> bool:
        key = _parse_key(key_pem)
        try:
            certificate = x509.load_pem_x509_certificate(certificate_pem)
            certificate.verify_directly_issued_by(self._certificate)
            usages = certificate.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
            names = _names_of(certificate)
        except (ValueError, TypeError, InvalidSignature, x509.ExtensionNotFound):
            return False
        return (
            key is not None
            and certificate.public_key() == key.public_key()
            and certificate.subject == wanted.subject
            and list(usages) == [wanted.usage]
            and names == wanted.alternative_names
            and certificate.not_valid_before_utc <= _date(self._clock)
            and not _ends_soon(certificate, self._clock)
        )

    def _issue(self, wanted: _Wanted) -> tuple[bytes, bytes]:
        key = ec.generate_private_key(ec.SECP256R1())
        builder = _builder(wanted.subject, key, self._clock, LEAF_VALIDITY)
        builder = (
            builder.issuer_name(self._certificate.subject)
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(_usage(digital_signature=True), critical=True)
            .add_extension(x509.ExtendedKeyUsage([wanted.usage]), critical=False)
            .add_extension(
                x509.AuthorityKeyIdentifier.from_issuer_public_key(self._key.public_key()),
                critical=False,
            )
        )
        if wanted.names:
            alternative = x509.SubjectAlternativeName(wanted.alternative_names)
            builder = builder.add_extension(alternative, critical=False)
        certificate = builder.sign(self._key, hashes.SHA256())
        return certificate.public_bytes(serialization.Encoding.PEM), _pem(key)


def user_of_der(certificate: bytes) -> User | None:
    """The user of a verified client certificate in DER (``getpeercert(binary_form=True)``)."""
    subject = x509.load_der_x509_certificate(certificate).subject
    names = subject.get_attributes_for_oid(NameOID.COMMON_NAME)
    groups = subject.get_attributes_for_oid(NameOID.ORGANIZATION_NAME)
    if not names or not names[0].value:
        return None
    return User(str(names[0].value), groups=tuple(str(group.value) for group in groups))


def write_private(path: Path, data: bytes) -> None:
    """Replace ``path`` by ``data`` at once and durably, readable by its owner alone."""
    beside = path.with_name(f".{path.name}.tmp")
    descriptor = os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        os.fchmod(descriptor, 0o600)
        file.write(data)
        file.flush()
        os.fsync(descriptor)
    beside.replace(path)


def _load_ca(directory: Path) -> tuple[Pair, _Key] | None:
    certificate_path, key_path = directory / "ca.crt", directory / "ca.key"
    certificate_pem, key_pem = _read(certificate_path), _read(key_path)
    if certificate_pem is None:
        return None  # nothing was ever signed: the key is written first
    key = _parse_key(key_pem or b"")
    try:
        certificate = x509.load_pem_x509_certificate(certificate_pem)
        fits = key is not None and certificate.public_key() == key.public_key()
    except ValueError:
        fits = False
    if key is None or key_pem is None or not fits:
        raise ConfigError(
            f"{certificate_path}: does not fit {key_path.name}, or one of them is damaged. Restore "
            "both, or remove both to have a new CA made (kubeconfigs must then be written again)"
        )
    return Pair(certificate_pem, key_pem, certificate_path, key_path), key


def _make_ca(directory: Path, clock: Clock, key: _Key | None) -> tuple[Pair, _Key]:
    key = key or ec.generate_private_key(ec.SECP256R1())
    pem = _self_signed("kubarium-ca", key, clock)
    pair = Pair(pem, _pem(key), directory / "ca.crt", directory / "ca.key")
    write_private(pair.key_path, pair.key_pem)
    write_private(pair.certificate_path, pair.certificate_pem)
    return pair, key


def _self_signed(name: str, key: _Key, clock: Clock) -> bytes:
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    certificate = (
        _builder(subject, key, clock, CA_VALIDITY)
        .issuer_name(subject)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(_usage(digital_signature=True, key_cert_sign=True), critical=True)
        .sign(key, hashes.SHA256())
    )
    return certificate.public_bytes(serialization.Encoding.PEM)


def _builder(
    subject: x509.Name, key: _Key, clock: Clock, validity: timedelta
) -> x509.CertificateBuilder:
    now = _date(clock)
    identifier = x509.SubjectKeyIdentifier.from_public_key(key.public_key())
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - BACKDATE)
        .not_valid_after(now + validity)
        .add_extension(identifier, critical=False)
    )


def _usage(*, digital_signature: bool = False, key_cert_sign: bool = False) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=digital_signature,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=key_cert_sign,
        crl_sign=key_cert_sign,
        encipher_only=False,
        decipher_only=False,
    )


def _names_of(certificate: x509.Certificate) -> list[x509.GeneralName]:
    try:
        extension = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName)
    except x509.ExtensionNotFound:
        return []
    return list(extension.value)


def _general_name(name: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(name))
    except ValueError:
        pass
    if not re.fullmatch(r"(\*\.)?[A-Za-z0-9_]([A-Za-z0-9_.-]*[A-Za-z0-9])?", name):
        raise ConfigError(f"{name!r} is neither a DNS name nor an IP address for a certificate")
    return x509.DNSName(name)


def _date(clock: Clock) -> datetime:
    return datetime.fromtimestamp(clock.now(), UTC)


def _ends_soon(certificate: x509.Certificate, clock: Clock) -> bool:
    return certificate.not_valid_after_utc - _date(clock) < RENEW_BEFORE


def _is_valid(pem: bytes, clock: Clock) -> bool:
    """Whether it is a certificate, and not about to expire."""
    try:
        return not _ends_soon(x509.load_pem_x509_certificate(pem), clock)
    except ValueError:
        return False


def _pem(key: _Key) -> bytes:
    return key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )


def _parse_key(pem: bytes) -> _Key | None:
    try:
        key = serialization.load_pem_private_key(pem, password=None)
    except (ValueError, TypeError):
        return None
    return key if isinstance(key, ec.EllipticCurvePrivateKey) else None


def _read(path: Path) -> bytes | None:
    try:
        return path.read_bytes()
    except FileNotFoundError:
        return None


def _file_name(user: str) -> str:
    """A file name of ``user``: other characters as hexadecimal, so that no two users share one."""
    return re.sub(r"[^A-Za-z0-9.-]", lambda match: f"_{ord(match[0]):x}_", user)
