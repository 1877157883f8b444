"""Files that the service needs at run time and that people edit outside the package."""

from pathlib import Path
from typing import Final

_PACKAGE: Final = Path(__file__).resolve().parent
_CHECKOUT: Final = _PACKAGE.parent.parent


def shipped(name: str) -> Path:
    """
    Return the path of a shipped file or folder, such as `nomad_jobs/opencode-raw-exec.nomad.hcl`.

    An installed wheel carries them inside the package; a checkout has them at its top.
    """
    installed = _PACKAGE / "shipped" / name
    return installed if installed.exists() else _CHECKOUT / name
