"""One certificate authority per cluster, and the certificates that its parts show each other."""

from dataclasses import dataclass
from pathlib import Path

from tests.cluster.harness.errors import HarnessError
from tests.cluster.harness.processes import run

_DAYS = "30"


@dataclass(frozen=True)
class Pair:
    """A certificate and its private key, both PEM files."""

    certificate: Path
    key: Path


@dataclass(frozen=True)
class Authority:
    """The folder of a certificate authority; `issue` puts new pairs beside it."""

    folder: Path
    own: Pair

    def issue(self, name: str, subject: str, addresses: tuple[str, ...] = (), names: tuple[str, ...] = ()) -> Pair:
        """Issue a pair for clients, and for servers too when it carries addresses or names.

        Args:
            name: the file name without its ending.
            subject: the distinguished name in OpenSSL's form, ``/O=group/CN=user``.
            addresses: IP addresses that a server is reached by.
            names: DNS names that a server is reached by.

        Raises:
            HarnessError: there is a pair of that name. Its holder would take the new one for a rotation, close its
                connections (the API server: in the handshake of its next one to a kubelet), and speak as another.
        """
        if (self.folder / f"{name}.crt").exists():
            raise HarnessError(f"a certificate {name} was issued before in {self.folder}: give this one another name")
        alternatives = [f"IP:{address}" for address in addresses] + [f"DNS:{dns}" for dns in names]
        usage = "clientAuth,serverAuth" if alternatives else "clientAuth"
        extensions = [
            "basicConstraints=critical,CA:FALSE",
            "keyUsage=critical,digitalSignature",
            f"extendedKeyUsage={usage}",
            "subjectKeyIdentifier=hash",
            "authorityKeyIdentifier=keyid",
        ]
        if alternatives:
            extensions.append(f"subjectAltName={','.join(alternatives)}")
        signer = ["-CA", str(self.own.certificate), "-CAkey", str(self.own.key)]
        return _make(self.folder, name, subject, extensions, signer)


def create_authority(folder: Path) -> Authority:
    """Make a new authority in `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    # Python 3.13 verifies strictly: an authority without a key usage extension is refused.
    extensions = [
        "basicConstraints=critical,CA:TRUE",
        "keyUsage=critical,keyCertSign,cRLSign",
        "subjectKeyIdentifier=hash",
    ]
    return Authority(folder, _make(folder, "ca", "/CN=flowstill-test-ca", extensions, []))


def create_signing_key(folder: Path) -> Path:
    """Make the key that signs service-account tokens."""
    path = folder / "service-accounts.key"
    run(["openssl", "genpkey", "-algorithm", "RSA", "-pkeyopt", "rsa_keygen_bits:2048", "-out", str(path)])
    return path


def _make(folder: Path, name: str, subject: str, extensions: list[str], signer: list[str]) -> Pair:
    pair = Pair(folder / f"{name}.crt", folder / f"{name}.key")
    # The system's openssl.cnf adds CA:TRUE to whatever is self-made, so it is left out.
    settings = folder / f"{name}.cnf"
    settings.write_text(
        "[req]\ndistinguished_name=dn\nx509_extensions=ext\nprompt=no\n[dn]\nCN=unused\n[ext]\n"
        + "\n".join(extensions)
        + "\n"
    )
    command = [
        "openssl",
        "req",
        "-x509",
        "-config",
        str(settings),
        "-nodes",
        "-days",
        _DAYS,
        "-subj",
        subject,
    ]
    command += ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", *signer]
    run([*command, "-keyout", str(pair.key), "-out", str(pair.certificate)])
    return pair
