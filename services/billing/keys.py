"""The key that signs checkpoints, in files: the key itself, and beside it every public key that ever signed.

`python -m services.billing.keys FILE` makes FILE with a new key, and FILE.pub; where FILE exists, it puts a new key in
its place. The public keys before it stay in FILE.pub, so that what they signed can still be checked. With
`--unless-there` a FILE that exists is left alone, so that a deployment can ask for one at every start.
"""

import secrets
import sys
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from services.billing.checkpoint import PRIVATE, NoteError, PublicKey, SigningKey
from services.billing.files import write_file


def public_file(file: Path) -> Path:
    """Where the public keys lie: one a line, the newest first."""
    return file.with_name(f"{file.name}.pub")


def read_key(file: Path) -> SigningKey:
    """The key that signs now. Raises OSError, NoteError."""
    return SigningKey.of(file.read_text("utf-8"))


def read_public_keys(file: Path) -> list[PublicKey]:
    """All keys of a file of public keys. Raises OSError, NoteError."""
    text = file.read_text("utf-8")
    if text.startswith(PRIVATE):
        raise NoteError(f"this is the private key, which is shown to nobody: give {public_file(file)}")
    return [PublicKey.of(line) for line in text.splitlines() if line.strip()]


def make_key(file: Path) -> SigningKey:
    """A new key in `file`. It keeps the name of the one it replaces, because the name is the log's."""
    public = public_file(file)
    earlier = read_public_keys(public) if public.exists() else []
    name = earlier[0].name if earlier else f"opentoken-{secrets.token_hex(4)}"
    key = SigningKey(name, Ed25519PrivateKey.generate())
    # The public half first: a key that signs before its public half is known would sign what nobody can check.
    write_file(public, "".join(f"{each}\n" for each in (key.public, *earlier)))
    write_file(file, f"{key.encoded()}\n", mode=0o600)
    return key


def main() -> None:
    """Make or replace the key of the file named."""
    arguments = [argument for argument in sys.argv[1:] if argument != "--unless-there"]
    if len(arguments) != 1:
        sys.exit("usage: python -m services.billing.keys [--unless-there] FILE")
    file = Path(arguments[0])
    if file.exists() and len(sys.argv) > 2:
        sys.stdout.write(f"{file} is there\n")
        return
    sys.stdout.write(
        f"{make_key(file).public}\nThe signing key is in {file}, all public keys are in {public_file(file)}\n"
    )


if __name__ == "__main__":
    main()
