"""Under pytest every annotation is checked: by jaxtyping where a file states shapes of arrays, else by beartype alone.

jaxtyping binds the arguments of every call anew, some ten times what beartype costs, so it is kept to the files whose
annotations it alone can read. Both hooks must stand before anything of the package is imported.
"""

from __future__ import annotations

from pathlib import Path

from beartype import BeartypeConf
from beartype.claw import beartype_package
from jaxtyping import install_import_hook

PACKAGE = Path(__file__).parent / "slimtask"
# beartype cannot resolve what a named tuple says of its fields, nor what is imported for the type checker alone
MARKS = ("from jaxtyping import", "(NamedTuple)", "if TYPE_CHECKING")


def for_jaxtyping() -> list[str]:
    """Return the names of the modules that jaxtyping has to check."""
    folders = [PACKAGE, *(path for path in PACKAGE.iterdir() if path.is_dir())]  # links, which rglob passes by
    paths = {path for folder in folders for path in folder.rglob("*.py")}
    marked = [path for path in paths if any(mark in path.read_text(encoding="utf-8") for mark in MARKS)]
    return sorted(".".join(path.relative_to(PACKAGE.parent).with_suffix("").parts) for path in marked)


install_import_hook(for_jaxtyping(), "beartype.beartype")
beartype_package("slimtask", conf=BeartypeConf(claw_is_pep526=False))
