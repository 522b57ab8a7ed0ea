"""TLS to the queue's server: whose certificates count, with which one this machine shows itself. Always verified."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qs, urlsplit

if TYPE_CHECKING:
    import socket

    from pi0q.queue.settings import Settings

#: Files of the directory of PI0Q_TLS (`pi0q server` makes them): the authority, this machine's certificate and its key.
CA, CERT, KEY = "ca.pem", "cert.pem", "key.pem"
#: Options of an address that would switch verification off, and what each must be.
VERIFYING = {"ssl_cert_reqs": ("required",), "ssl_check_hostname": ("true", "1", "yes")}
PROBE_SECONDS = 3.0
#: What clients say of a server that hangs up on their first word.
CUT = ("closed by server", "reset by peer", "Broken pipe", "Protocol Error")


def wanted(url: str) -> bool:
    """Return whether an address asks for TLS."""
    return url.startswith("rediss://")


def fault(url: str) -> str:
    """Return why an address would trust just any server; "" where it does not."""
    options = parse_qs(url.partition("?")[2])
    for name, good in VERIFYING.items():
        if name in options and options[name][-1].lower() not in good:
            return f"{name} in it would switch the check of the server's certificate off"
    return ""


def options(settings: Settings) -> dict[str, Any]:
    """Return redis-py's options for the address: nothing without TLS, else verification and the files there are."""
    if not wanted(settings.redis_url):
        return {}
    found: dict[str, Any] = {"ssl_cert_reqs": "required", "ssl_check_hostname": True}
    if settings.tls is not None:
        found["ssl_ca_certs"] = str(settings.tls / CA)
        if (settings.tls / CERT).exists():
            found |= {"ssl_certfile": str(settings.tls / CERT), "ssl_keyfile": str(settings.tls / KEY)}
    return found


def for_celery(settings: Settings) -> dict[str, Any] | None:
    """Return Celery's `broker_use_ssl`; None without TLS."""
    import ssl

    found = options(settings)
    return found | {"ssl_cert_reqs": ssl.CERT_REQUIRED} if found else None


def default_directory(config: Path) -> Path | None:
    """Return the directory beside the settings file, where there is one."""
    directory = config.parent / "tls"
    return directory if (directory / CA).exists() else None


def meaning(error: Exception, settings: Settings) -> tuple[str, str] | None:
    """Return what a failed connection has to do with TLS, and the cure; None where it has nothing to."""
    text = str(error)
    if wanted(settings.redis_url):
        return _refused(text, settings)
    if any(sign in text for sign in CUT) and _speaks_tls(settings.redis_url):
        return (
            "takes encrypted connections only.",
            "Write rediss:// instead of redis:// in the address, and name the directory with ca.pem, cert.pem and "
            "key.pem that `pi0q server` made for this machine: PI0Q_TLS=DIRECTORY",
        )
    return None


def _refused(text: str, settings: Settings) -> tuple[str, str] | None:
    directory = settings.tls or "not set"
    plain = any(sign in text for sign in ("WRONG_VERSION_NUMBER", "wrong version number", "record layer failure"))
    # Such a server waits for the rest of what it takes for a command.
    if plain or (("imeout" in text or "timed out" in text) and _speaks_plain(settings.redis_url)):
        cure = "Write redis:// instead of rediss:// in the address, through a tunnel; or have it encrypt: "
        return "answers without encryption, so nothing was sent to it.", f"{cure}pi0q server init --tls, on its machine"
    shows_none = settings.tls is None or not (settings.tls / CERT).exists()
    cut = any(sign in text for sign in (*CUT, "EOF occurred"))
    if "certificate required" in text.lower() or "CERTIFICATE_REQUIRED" in text or (shows_none and cut):
        cure = "Ask whoever runs the queue for them (pi0q server add-box or add-user), and set PI0Q_TLS=DIRECTORY"
        return f"wants a certificate of this machine (PI0Q_TLS is {directory}).", cure
    if "unknown ca" in text.lower() or "UNKNOWN_CA" in text:
        cure = "Ask whoever runs the queue for new ones: pi0q server add-user NAME, on its machine"
        return f"does not know who signed the certificate in {directory}.", cure
    if "CERTIFICATE_VERIFY_FAILED" in text or "certificate verify failed" in text:
        cure = (
            "Check that the host in the address is one of pi0q server init --tls --host …, and that PI0Q_TLS names the "
            "directory with that server's ca.pem"
        )
        return f"is not who it should be, so nothing was sent to it: {text}", cure
    if "No such file" in text or (isinstance(settings.tls, Path) and not (settings.tls / CA).exists()):
        return f"was not asked: {directory} has no ca.pem.", "Set PI0Q_TLS to the directory with ca.pem"
    return None


def _speaks_tls(url: str) -> bool:
    """Return whether what listens there begins a TLS handshake. Nothing of it is believed, and it is told nothing."""
    import ssl

    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    with suppress(OSError, ValueError), _stranger(url) as plain, context.wrap_socket(plain):
        return True
    return False


def _speaks_plain(url: str) -> bool:
    """Return whether what listens there answers a PING without encryption; it is told nothing else."""
    with suppress(OSError, ValueError), _stranger(url) as plain:
        plain.sendall(b"PING\r\n")
        return plain.recv(16).startswith((b"+PONG", b"-NOAUTH"))
    return False


def _stranger(url: str) -> socket.socket:
    import socket

    parts = urlsplit(url)
    return socket.create_connection((parts.hostname or "localhost", parts.port or 6379), timeout=PROBE_SECONDS)
