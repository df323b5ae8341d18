"""Privacy: who a patient is stays outside. Identities become salted hashes before anything is kept or shown.

That is for your own images (`sources.folder`). A published dataset names its patients by pseudonyms that are public,
and they are kept, since the official tables and everybody else's splits go by them; of its headers nothing else about
the person is read.
"""

from __future__ import annotations

import hashlib
import hmac
import io
import os
import re
import secrets
import unicodedata
from collections.abc import Iterable
from itertools import permutations
from typing import TYPE_CHECKING

from mednb.datasets import pixels
from mednb.datasets.pixels import quiet

if TYPE_CHECKING:
    from mednb.datasets.archive import Archive

NAMES = ("PatientID", "PatientName", "OtherPatientIDs", "OtherPatientNames", "PatientBirthDate", "AccessionNumber")
WRITTEN_OUT = str.maketrans({"ä": "ae", "ö": "oe", "ü": "ue"})  # ß is ss in small letters anyway


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


def names_of(said: dict[str, str]) -> set[str]:
    """What may name the person in a path: each element of an `identity`, its parts, two parts of a name or one and an
    initial, a date in three orders."""
    found = set()
    for element, value in said.items():
        for one in value.split("="):  # a name may be there in several alphabets
            parts = [part for part in re.split(r"[\s^\\,]+", one) if part]
            found |= {one, *parts}
            if "Name" in element:
                found |= {" ".join(two) for two in permutations(parts, 2)}
                found |= {f"{one} {other[0]}" for one, other in permutations(parts, 2)}  # and an initial
            if element == "PatientBirthDate" and re.fullmatch(r"\d{8}", one):
                year, month, day = one[:4], one[4:6], one[6:]
                found |= {f"{year} {month} {day}", f"{day} {month} {year}", f"{month} {day} {year}"}
    return found


def tells(path: str, names: Iterable[str]) -> bool:
    """Whether one of these names or ids stands in a path: in words of its own or written together, in either order.

    One of less than three letters, or two where they are not Latin, is not looked for: it is in too many paths.
    """
    # MUSTERMANN1 is a file of hers as well, so that digits are also taken for spaces.
    place = "".join(spelling for each in (path, re.sub(r"\d", " ", path)) for spelling in spellings(each))
    for parts in (spelling.split() for name in names for spelling in spellings(name)):
        joined, apart = {"".join(parts), "".join(parts[::-1])}, {" ".join(parts), " ".join(parts[::-1])}
        if any(f" {form} " in place for form in joined | apart if telling(form)):
            return True
        if any(form in place for form in joined | apart if telling(form) and unmistakable(form, len(parts))):
            return True
    return False


def telling(name: str) -> bool:
    """Whether a name is long enough to be no word by chance."""
    letters = name.replace(" ", "")
    return len(letters) >= (3 if letters.isascii() else 2)


def unmistakable(name: str, parts: int) -> bool:
    """Whether a name tells the person also within a longer word: two in one, a date, or in a script without spaces."""
    name = name.replace(" ", "")
    if parts > 1 and name.isalpha():  # with digits, "case 1" would stand in case12
        return len(name) >= 6 or not name.isascii()
    if parts == 3 and name.isdecimal():
        return len(name) == 8
    return not name.isascii() and name.lower() == name.upper()


def spellings(text: str) -> set[str]:
    """A text in plain letters, once without its accents and once with the umlauts written out: Müller, Mueller."""
    text = unicodedata.normalize("NFC", text).casefold()
    return {plain(text), plain(text.translate(WRITTEN_OUT))}


def plain(text: str) -> str:
    """Letters and digits of any script between single spaces: O_Brien is O'Brien, and José is Jose."""
    letters = unicodedata.normalize("NFKD", text).casefold()
    letters = "".join(letter for letter in letters if not unicodedata.category(letter).startswith("M"))
    words = re.sub(r"[\W_]+", " ", unicodedata.normalize("NFC", letters))
    return f" {words.strip()} "
