"""Privacy: who a patient is stays outside. Identities become salted hashes before anything is kept or shown."""

from __future__ import annotations

import hashlib
import hmac
import io
import os
import re
import secrets
from typing import TYPE_CHECKING

from mednb.datasets import pixels
from mednb.datasets.pixels import quiet

if TYPE_CHECKING:
    from mednb.datasets.archive import Archive

NAMES = ("PatientID", "PatientName", "OtherPatientIDs", "OtherPatientNames", "PatientBirthDate", "AccessionNumber")


def hashed(identifier: object, salt: str | None = None) -> str:
    """A patient's id as "p-" and 10 hexadecimal digits; the same id and salt give the same one.

    Without the salt nobody finds the id by trying all ids there are, short as they may be.

    salt: None: $MEDNB_SALT, else one drawn at random once and kept in the cache, readable by its owner only. To get
        the same hashes on another machine, set $MEDNB_SALT there to the same secret.
    """
    said = str(identifier).strip()
    if not said:
        raise ValueError("the patient's id is empty; leave the column out when patients are not known")
    key = (salt or os.environ.get("MEDNB_SALT") or kept_salt()).encode()
    return "p-" + hmac.new(key, said.encode(), hashlib.sha256).hexdigest()[:10]


def kept_salt() -> str:
    """The random salt of this cache, made when it is missing. Of two processes that make it at once, one wins."""
    from mednb.datasets.store import cache

    path = cache() / "salt"
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        aside = path.with_name(f".salt.{os.getpid()}.{secrets.token_hex(4)}.part")
        descriptor = os.open(aside, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(descriptor, "w", encoding="ascii") as file:
            file.write(secrets.token_hex(32))
        try:
            os.link(aside, path)  # fails where another process was first, and never shows half a file
        except FileExistsError:
            pass
        finally:
            aside.unlink()
    return path.read_text(encoding="ascii")


def patient(archive: Archive, file: str) -> str:
    """The hash of the patient's id in a DICOM file; ValueError that names the file when none stands there."""
    with pixels.named(archive.where(file)):
        return hashed(identity(archive.read(file))["PatientID"])


def identity(data: bytes) -> dict[str, str]:
    """What names the person in a DICOM file, to be compared and forgotten: never returned by anything else here."""
    import pydicom

    with quiet():
        header = pydicom.dcmread(io.BytesIO(data), force=True, stop_before_pixels=True, specific_tags=list(NAMES))
        return {name: str(header.get(name) or "") for name in NAMES}


def names_person(path: str, data: bytes) -> bool:
    """Whether the path of a DICOM file holds the patient's name or id, so that it must not be shown as it is."""
    words = [part for said in identity(data).values() for part in (said, *re.split(r"[\s^=\\,]+", said))]
    return any(len(word) >= 3 and plain(word) in plain(path) for word in words)


def plain(text: str) -> str:
    """Letters and digits between single spaces, so that O_Brien and O'Brien are the same."""
    return f" {re.sub(r'[^a-z0-9]+', ' ', text.casefold()).strip()} "
