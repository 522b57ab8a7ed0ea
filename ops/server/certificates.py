"""Certificates of the server's own authority: made once by `pi0q server init --tls`, one for each user besides.

A connection needs both: the client checks the server's name against the authority, the server takes only clients that
the authority has signed.
"""

from __future__ import annotations

import datetime
import ipaddress
from collections.abc import Iterable
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from pi0q.ops import file_edits

#: Names of the files of a side, in its own folder.
CA, CERT, KEY = "ca.pem", "cert.pem", "key.pem"
#: Days that the authority and what it signs are valid.
CA_DAYS, CERT_DAYS = 3650, 1825
#: Clocks of boxes may be behind.
EARLIER = datetime.timedelta(days=1)


def make_authority(folder: Path, now: datetime.datetime) -> None:
    """Make the authority's certificate and key in a folder, unless they are there."""
    if (folder / KEY).exists():
        return
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    key = ec.generate_private_key(ec.SECP256R1())
    name = _name("pi0q queue")
    made = (
        _builder(name, name, key.public_key(), now, CA_DAYS)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(_usage(signs=True), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .sign(key, hashes.SHA256())
    )
    _write(folder / KEY, _pem(key))
    _write(folder / CA, made.public_bytes(serialization.Encoding.PEM))


def sign(authority: Path, folder: Path, name: str, now: datetime.datetime, *, hosts: Iterable[str] = ()) -> None:
    """Write a key, a certificate and the authority's into a folder: of the server with `hosts`, else of a client."""
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    ca = x509.load_pem_x509_certificate((authority / CA).read_bytes())
    ca_key = serialization.load_pem_private_key((authority / KEY).read_bytes(), None)
    assert isinstance(ca_key, ec.EllipticCurvePrivateKey)
    key, named = ec.generate_private_key(ec.SECP256R1()), [_host(host) for host in hosts]
    purpose = ExtendedKeyUsageOID.SERVER_AUTH if named else ExtendedKeyUsageOID.CLIENT_AUTH
    builder = (
        _builder(_name(name), ca.subject, key.public_key(), now, CERT_DAYS)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_usage(signs=False), critical=True)
        .add_extension(x509.ExtendedKeyUsage([purpose]), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(ca_key.public_key()), critical=False)
    )
    if named:
        builder = builder.add_extension(x509.SubjectAlternativeName(named), critical=False)
    _write(folder / KEY, _pem(key))
    _write(folder / CERT, builder.sign(ca_key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM))
    _write(folder / CA, (authority / CA).read_bytes())


def _builder(
    subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePublicKey, now: datetime.datetime, days: int
) -> x509.CertificateBuilder:
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - EARLIER)
        .not_valid_after(now + datetime.timedelta(days=days))
    )


def _name(text: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text[:64])])


def _host(text: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(text))
    except ValueError:
        return x509.DNSName(text)


def _usage(*, signs: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=True,
        key_cert_sign=signs,
        crl_sign=signs,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )


def _pem(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )


def _write(file: Path, text: bytes) -> None:
    file_edits.write(file, text.decode("ascii"), 0o600)
