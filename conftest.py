"""Under pytest the annotations of every file that states shapes of arrays are checked, by jaxtyping and beartype.

Of the other files mypy checks them: jaxtyping binds the arguments of every call anew, a third of the suite's time. The
hook must stand before anything of the package is imported.
"""

from __future__ import annotations

from pathlib import Path

from jaxtyping import install_import_hook

PACKAGE = Path(__file__).parent / "slimtask"


def modules_with_shapes() -> list[str]:
    """Return the names of the modules whose annotations state shapes."""
    folders = [PACKAGE, *(path for path in PACKAGE.iterdir() if path.is_dir())]  # links, which rglob passes by
    paths = {path for folder in folders for path in folder.rglob("*.py")}
    marked = [path for path in paths if "from jaxtyping import" in path.read_text(encoding="utf-8")]
    return sorted(".".join(path.relative_to(PACKAGE.parent).with_suffix("").parts) for path in marked)


install_import_hook(modules_with_shapes(), "beartype.beartype")
