"""The files of one table of the lens: STEM.csv, .json, .parquet, its page where it has one, and STEM_run.json.

In: columns and a manifest. Out: all files or none. The manifest is removed first and written last: if it is there, the
tables fit.
"""

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from mask_impact.errors import UserError
from mask_impact.files import page
from mask_impact.files.checksums import changed, recorded
from mask_impact.files.formats import side_table_formats, write_side_table
from mask_impact.files.stored import LensTable, Unreadable, stored
from mask_impact.files.temporaries import check_replaceable, new_set
from mask_impact.files.writers import manifest_text
from mask_impact.table import Columns

SCHEMA_VERSION = 1
WritePage = Callable[[Path, Columns, dict[str, Any], Sequence[Any]], Any]


class Files:
    """The files under one stem, such as "cat_neighbors"."""

    def __init__(self, folder: Path, stem: str, formats: Sequence[str]) -> None:
        self.folder, self.stem, self.formats = folder, stem, formats
        self.manifest = folder / f"{stem}_run.json"
        self.paths = [*(folder / f"{stem}.{form}" for form in formats), self.manifest]
        if "html" in formats:
            page.find_page()  # reports a missing page before the long search

    def existing(self) -> list[Path]:
        tables = [self.folder / f"{self.stem}.{form}" for form in (*side_table_formats(), "html")]
        return [path for path in (self.manifest, *tables) if os.path.lexists(path)]

    def check_writable(self, keeping: bool) -> None:
        """Said before the work. Raises UserError for files under this name that are to be kept, and for a folder."""
        existing = self.existing()
        if keeping and existing:
            raise UserError(
                f"{existing[0]} exists already; choose another --output, keep it with --resume, or replace it with "
                "--overwrite"
            )
        check_replaceable(existing)

    def keep(self, request: dict[str, Any], what: str, say: Callable[[str], None]) -> bool:
        """Whether the existing files are complete and were made from `request`, and can stay; it is said.

        Args:
            what: the parts of a request.
        """
        same = self.is_of(request)
        if same:
            say(f"kept       {self.manifest}: same {what}")
        elif self.existing():
            say(f"redo       {self.existing()[0]}: not of the same {what}, or changed since")
        return same

    def is_of(self, request: dict[str, Any]) -> bool:
        """Whether the existing files are complete and were made from `request`."""
        try:
            manifest = stored(self.manifest, LensTable)
        except (FileNotFoundError, Unreadable):
            return False
        notes = manifest.get("notes", ())  # of a page that was too large, too
        too_large = [path for path in self.paths if any(note.startswith(f"{path.name} was not") for note in notes)]
        same = manifest["request"] == request and all(path.exists() or path in too_large for path in self.paths)
        return same and not any(changed(path, manifest) for path in self.paths[:-1] if path.exists())

    def write(
        self,
        columns: Columns,
        manifest: dict[str, Any],
        pictures: Sequence[Any] = (),
        write_page: WritePage | None = None,
    ) -> str | None:
        """Write the files. Returns why there is no page although it was asked for: it can be too large."""
        tables, note = [path for path in self.paths[:-1] if path.suffix != ".html"], None
        manifest = {"schema_version": SCHEMA_VERSION, **manifest, "rows": len(next(iter(columns.values())))}
        manifest |= {"files": [], "tables": [path.name for path in tables]}  # "files" is for result tables: none
        with new_set(self.folder, self.stem, self.existing()) as (temporary, names):
            for path in tables:
                write_side_table(temporary / path.name, columns, manifest)
                names.append(path.name)
            if "html" in self.formats and write_page:
                page_name = f"{self.stem}.html"
                try:
                    write_page(temporary / page_name, columns, manifest, pictures)
                    names.append(page_name)
                    manifest["tables"].append(page_name)
                except UserError as error:
                    note = f"{page_name} was not written: {error}"
                    manifest["notes"] = [*manifest.get("notes", ()), note]
            manifest |= recorded(temporary, names)
            (temporary / self.manifest.name).write_bytes(manifest_text(manifest).encode())
            names.append(self.manifest.name)
        return note
