"""The CA: what it issues works in real TLS, is kept, and is renewed in time."""

import ssl
import stat
import time

import pytest

from kubarium.base.errors import ConfigError
from kubarium.server.authn import User, certificate_user
from kubarium.server.pki import LEAF_VALIDITY, RENEW_BEFORE, Authority, user_of_der, write_private

DAY_S = 86_400.0


class SetClock:
    def __init__(self, now):
        self.time = now

    def now(self):
        return self.time

    def monotonic(self):
        return self.time

    async def sleep(self, seconds):
        self.time += seconds


@pytest.fixture
def clock():
    return SetClock(time.time())


@pytest.fixture
def authority(tmp_path, clock):
    return Authority.open(tmp_path / "pki", clock)


def handshake(authority, server_name, client=None, strict=False):
    """(client's view of the server's certificate, server's view of the client's) over real TLS."""
    server_pair = authority.server()
    server_context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server_context.load_cert_chain(server_pair.certificate_path, server_pair.key_path)
    server_context.load_verify_locations(authority.ca_path)
    server_context.verify_mode = ssl.CERT_OPTIONAL
    client_context = ssl.create_default_context(cadata=authority.ca_pem.decode())
    if strict:
        client_context.verify_flags |= ssl.VERIFY_X509_STRICT
    if client:
        client_context.load_cert_chain(client.certificate_path, client.key_path)
    to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
    server = server_context.wrap_bio(to_server, to_client, server_side=True)
    caller = client_context.wrap_bio(to_client, to_server, server_hostname=server_name)
    waiting = [caller, server]
    for _ in range(20):
        for side in list(waiting):
            try:
                side.do_handshake()
                waiting.remove(side)
            except ssl.SSLWantReadError:
                continue
        if not waiting:
            return caller.getpeercert(), server.getpeercert(), server.getpeercert(True)
    raise AssertionError("the handshake did not end")


@pytest.mark.parametrize("name", ["localhost", "127.0.0.1", "::1", "kubernetes.default.svc"])
def test_server_certificate_is_accepted_under_each_name(authority, name):
    server, client, _ = handshake(authority, name, strict=True)
    assert ("DNS", "kubernetes.default.svc.cluster.local") in server["subjectAltName"]
    assert not client


def test_another_name_is_refused_until_it_is_asked_for(tmp_path, authority):
    with pytest.raises(ssl.SSLCertVerificationError, match=r"10\.0\.0\.9"):
        handshake(authority, "10.0.0.9")
    first = authority.server()
    named = authority.server(["10.0.0.9", "kubarium.example"])
    assert named.certificate_pem != first.certificate_pem
    assert authority.server(["10.0.0.9", "kubarium.example"]) == named


def test_client_certificate_is_the_user_and_the_groups(authority):
    pair = authority.client("alice", ["team-a", "team-b"])
    _, seen, der = handshake(authority, "localhost", client=pair, strict=True)
    expected = User("alice", groups=("team-a", "team-b"))
    assert certificate_user(seen) == expected
    assert user_of_der(der) == expected


def test_a_certificate_of_another_ca_is_refused(tmp_path, clock, authority):
    stranger = Authority.open(tmp_path / "other", clock).client("alice", ["system:masters"])
    with pytest.raises(ssl.SSLError):
        handshake(authority, "localhost", client=stranger)


def test_everything_is_private_and_kept(tmp_path, clock, authority):
    made = (
        authority.ca_pem,
        authority.server(),
        authority.client("a", ["g"]),
        authority.service_account_key(),
    )
    directory = tmp_path / "pki"
    assert stat.S_IMODE(directory.stat().st_mode) == 0o700
    assert {stat.S_IMODE(path.stat().st_mode) for path in directory.iterdir()} == {0o600}
    again = Authority.open(directory, clock)
    kept = (again.ca_pem, again.server(), again.client("a", ["g"]), again.service_account_key())
    assert kept == made


def test_a_changed_group_means_a_new_certificate(authority):
    before = authority.client("a", ["g"])
    assert authority.client("a", ["h"]).certificate_pem != before.certificate_pem


def test_users_with_odd_names_do_not_share_files(authority):
    paths = {authority.client(user).key_path for user in ("a:b", "a/b", "a_3a_b", "a.b", "..")}
    assert len(paths) == 5
    assert {path.parent for path in paths} == {authority.directory}


def test_renewed_shortly_before_the_end_and_not_before(tmp_path, clock, authority):
    first = authority.server()
    clock.time += (LEAF_VALIDITY - RENEW_BEFORE).total_seconds() - DAY_S
    assert authority.server() == first
    clock.time += 2 * DAY_S
    assert authority.server().certificate_pem != first.certificate_pem


def test_an_ending_ca_is_renewed_with_the_same_key(tmp_path, clock, authority):
    clock.time += 3640 * DAY_S
    renewed = Authority.open(tmp_path / "pki", clock)
    assert renewed.ca_pem != authority.ca_pem
    assert renewed.pair.key_pem == authority.pair.key_pem


def test_a_front_proxys_ca_is_kept_until_it_ends_and_its_key_nowhere(tmp_path, clock, authority):
    first = authority.front_proxy_ca()
    assert b"PRIVATE" not in first
    assert Authority.open(tmp_path / "pki", clock).front_proxy_ca() == first != authority.ca_pem
    (tmp_path / "pki" / "front-proxy-ca.crt").write_bytes(b"damaged")
    second = authority.front_proxy_ca()
    assert second.startswith(b"-----BEGIN CERTIFICATE-----")
    clock.time += 3640 * DAY_S
    assert authority.front_proxy_ca() != second
    assert not [path for path in (tmp_path / "pki").iterdir() if path.name == "front-proxy-ca.key"]


def test_a_leaf_that_does_not_fit_its_key_is_made_anew(authority):
    pair = authority.client("a")
    write_private(pair.key_path, authority.client("b").key_pem)
    assert authority.client("a").certificate_pem != pair.certificate_pem
    write_private(pair.certificate_path, b"torn")
    handshake(authority, "localhost", client=authority.client("a"))


@pytest.mark.parametrize("broken", ["ca.crt", "ca.key"])
@pytest.mark.parametrize("content", [b"", b"junk", None])
def test_a_damaged_ca_is_not_replaced_behind_our_back(tmp_path, clock, authority, broken, content):
    path = tmp_path / "pki" / broken
    if content is None:
        if broken == "ca.crt":
            return  # a key alone has signed nothing yet
        path.unlink()
    else:
        path.write_bytes(content)
    with pytest.raises(ConfigError, match=r"ca\.crt: does not fit ca\.key.*remove both"):
        Authority.open(tmp_path / "pki", clock)


def test_a_damaged_token_key_is_named(tmp_path, authority):
    (tmp_path / "pki" / "sa.key").write_text("junk")
    with pytest.raises(ConfigError, match=r"sa\.key: not a P-256 private key"):
        authority.service_account_key()


def test_what_x509_cannot_hold_is_said(authority):
    with pytest.raises(ConfigError, match="65 characters"):
        authority.client("n" * 65)
    with pytest.raises(ConfigError, match="neither a DNS name nor an IP address"):
        authority.server(["not a name"])
