"""Files that a user names: regular files; texts of bounded size, in UTF-8."""

import stat
from pathlib import Path

from mask_impact.errors import UserError

LARGEST = 2**26  # bytes: more than any model reads, and less than would fill a memory


def check_regular(path: Path, what: str, give: str = "a text file") -> None:
    """Raises UserError for a device, a pipe or a folder, which might never end, and OSError for what is not there."""
    mode = path.stat().st_mode
    if not stat.S_ISREG(mode):
        raise UserError(f"{what} is {'a folder' if stat.S_ISDIR(mode) else 'no regular file'}; give {give}")


def read_text(path: Path, what: str, hint: str = "") -> str:
    """The text of a file, without a byte order mark and with "\\n" at the ends of lines.

    Args:
        what: the file, for error messages.
        hint: what else to say of a file that cannot be read.

    Raises UserError.
    """
    try:
        check_regular(path, what)
        with path.open("rb") as file:
            data = file.read(LARGEST + 1)
        if len(data) > LARGEST:
            raise UserError(f"{what} is larger than {LARGEST:,} bytes; give a shorter one")
        return data.decode("utf-8-sig").replace("\r\n", "\n").replace("\r", "\n")
    except UnicodeDecodeError as error:
        raise UserError(f"{what} is not UTF-8 text (byte {error.start}); save it as UTF-8") from error
    except (OSError, ValueError) as error:  # ValueError: the path has a null character
        raise UserError(f"{what} cannot be read: {getattr(error, 'strerror', None) or error}{hint}") from error
