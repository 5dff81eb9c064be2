"""HTTP servers on loopback whose every byte a test decides, and certificates for them."""

import contextlib
import datetime
import ipaddress
import socket
import ssl
import threading
from dataclasses import dataclass, field


@dataclass
class Request:
    """What a client sent."""

    method: str
    target: str
    headers: dict
    """Names in lower case."""
    body: bytes
    server_name: str | None = None
    """Of TLS."""


@dataclass
class Server:
    """A server that runs; `requests` are those it has read."""

    port: int
    requests: list = field(default_factory=list)
    connections: int = 0


def plain(status=200, body=b"", **headers):
    """An answer as it should be, with a length: `Retry_After="3"` becomes Retry-After.

    It says that the connection ends, as `serving` ends it: a client that keeps connections might send its next request
    into this one while it is being closed.
    """
    lines = [f"HTTP/1.1 {status} x", f"Content-Length: {len(body)}", "Connection: close"]
    lines += [f"{name.replace('_', '-')}: {value}" for name, value in headers.items()]
    return "\r\n".join(lines).encode("latin-1") + b"\r\n\r\n" + body


def _read(connection):
    file = connection.makefile("rb")
    method, target, _ = file.readline().decode("latin-1").split(" ", 2)
    headers = {}
    while line := file.readline().decode("latin-1").strip():
        name, _, value = line.partition(":")
        headers[name.lower()] = value.strip()
    body = file.read(int(headers.get("content-length", "0")))
    return Request(method, target, headers, body)


@contextlib.contextmanager
def serving(answer, *, tls=None, host="127.0.0.1"):
    """Answer requests with what `answer(request)` returns, or what it sends itself by `answer(request, connection)`.

    `answer` may also be bytes. `tls` is a pair of files, certificate chain and key.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.create_server((host, 0), family=family, backlog=64)
    server = Server(listener.getsockname()[1])
    names = {}
    context = None
    if tls is not None:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(*tls)
        context.sni_callback = lambda one, name, _: names.__setitem__(id(one), name)
    open_ones = set()
    over = threading.Event()

    def serve(connection):
        with contextlib.suppress(OSError, ValueError):
            open_ones.add(connection)
            if context is not None:
                connection = context.wrap_socket(connection, server_side=True)
                open_ones.add(connection)
            request = _read(connection)
            request.server_name = names.get(id(connection))
            server.requests.append(request)
            if isinstance(answer, bytes):
                connection.sendall(answer)
            else:
                by_hand = answer.__code__.co_argcount == 2
                given = answer(request, connection) if by_hand else answer(request)
                if given is not None:
                    connection.sendall(given)
            if context is not None:
                connection.unwrap()
        with contextlib.suppress(OSError):
            connection.close()

    def accept():
        while not over.is_set():
            try:
                connection, _ = listener.accept()
            except OSError:
                return
            if over.is_set():
                connection.close()
                return
            connection.settimeout(10)
            server.connections += 1
            threading.Thread(target=serve, args=(connection,), daemon=True).start()

    thread = threading.Thread(target=accept, daemon=True)
    thread.start()
    try:
        yield server
    finally:
        over.set()
        with contextlib.suppress(OSError):
            socket.create_connection((host, server.port), timeout=1).close()
        listener.close()
        thread.join(2)
        for one in open_ones:
            with contextlib.suppress(OSError):
                one.close()


@dataclass(frozen=True)
class Authority:
    """A certificate authority of the test's own."""

    folder: object
    key: object
    certificate: object

    @property
    def file(self):
        return self.folder / "ca.pem"

    def certify(self, *names, expired=False):
        """(certificate, key), files, for DNS names and addresses."""
        from cryptography import x509
        from cryptography.hazmat.primitives.asymmetric import ec

        key = ec.generate_private_key(ec.SECP256R1())
        alternatives = []
        for name in names:
            try:
                alternatives.append(x509.IPAddress(ipaddress.ip_address(name)))
            except ValueError:
                alternatives.append(x509.DNSName(name))
        extensions = [(x509.SubjectAlternativeName(alternatives), False)]
        certificate = _certificate(
            names[0], key.public_key(), self.certificate.subject, self.key, extensions, expired
        )
        stem = f"{names[0]}{'-expired' if expired else ''}".replace(":", "_")
        return _written(self.folder, stem, certificate, key)


def authority(folder):
    """Make a certificate authority in a folder."""
    from cryptography import x509
    from cryptography.hazmat.primitives.asymmetric import ec

    key = ec.generate_private_key(ec.SECP256R1())
    subject = _name("an authority of the test's own")
    usage = x509.KeyUsage(
        digital_signature=True,
        key_cert_sign=True,
        crl_sign=True,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )
    extensions = [(x509.BasicConstraints(ca=True, path_length=0), True), (usage, True)]
    certificate = _certificate(subject, key.public_key(), subject, key, extensions, False)
    _written(folder, "ca", certificate, key)
    return Authority(folder, key, certificate)


def _name(text):
    from cryptography import x509
    from cryptography.x509.oid import NameOID

    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text)])


def _certificate(subject, public_key, issuer, signing_key, extensions, expired):
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes

    now = datetime.datetime.now(datetime.UTC)
    end = now - datetime.timedelta(days=1) if expired else now + datetime.timedelta(days=1)
    builder = (
        x509.CertificateBuilder()
        .subject_name(subject if isinstance(subject, x509.Name) else _name(subject))
        .issuer_name(issuer)
        .public_key(public_key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=2))
        .not_valid_after(end)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(public_key), critical=False)
        .add_extension(
            x509.AuthorityKeyIdentifier.from_issuer_public_key(signing_key.public_key()), critical=False
        )
    )
    for extension, critical in extensions:
        builder = builder.add_extension(extension, critical=critical)
    return builder.sign(signing_key, hashes.SHA256())


def _written(folder, stem, certificate, key):
    from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

    certificate_file, key_file = folder / f"{stem}.pem", folder / f"{stem}.key"
    certificate_file.write_bytes(certificate.public_bytes(Encoding.PEM))
    key_file.write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    return certificate_file, key_file
