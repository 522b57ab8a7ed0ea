"""Ed25519 by `cryptography`: the one module that imports it."""

from __future__ import annotations

from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey


def generate() -> bytes:
    """Return a new private key as PEM, without a password."""
    return Ed25519PrivateKey.generate().private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )


def load(pem: bytes) -> Ed25519PrivateKey | None:
    """Return the private key in a PEM text; None where it is no Ed25519 key, or asks for a password."""
    try:
        key = serialization.load_pem_private_key(pem, password=None)
    except (ValueError, TypeError, UnsupportedAlgorithm):
        return None
    return key if isinstance(key, Ed25519PrivateKey) else None


def public_of(key: Ed25519PrivateKey) -> bytes:
    """Return the 32 bytes of its public key."""
    return key.public_key().public_bytes_raw()


def verifies(public: bytes, data: bytes, signature: bytes) -> bool:
    """Return whether this key made this signature of these bytes."""
    try:
        Ed25519PublicKey.from_public_bytes(public).verify(signature, data)
    except (InvalidSignature, ValueError):
        return False
    return True
