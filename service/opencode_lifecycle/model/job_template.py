"""
What a job template asks for, read from its text alone.

A template is real HCL that operators also run by hand. The service needs to know two things before it hands the text to
Nomad: which variables it declares, since Nomad ignores a value that nobody declared, and which of a stack's parts the job
cannot start without.
"""

import re
from dataclasses import dataclass
from functools import lru_cache
from typing import Final

_COMMENT_OR_STRING: Final = re.compile(
    r'"(?:[^"\\\n]|\\.)*"'  # a quoted string, kept: the name of a variable is one
    r"|/\*.*?\*/"
    r"|#[^\n]*"
    r"|//[^\n]*",
    re.DOTALL,
)
_HEREDOC: Final = re.compile(r"<<-?(?P<end>\w+)[^\n]*\n.*?^[ \t]*(?P=end)[ \t]*$", re.DOTALL | re.MULTILINE)
_VARIABLE: Final = re.compile(
    r'^[ \t]*variable[ \t]+"(?P<name>[A-Za-z_][A-Za-z0-9_-]*)"[ \t]*\{', re.MULTILINE
)


@lru_cache(maxsize=16)  # every stack of a release asks about the same few texts
def declared_variables(hcl: str) -> frozenset[str]:
    """Return the names of all `variable` blocks in *hcl*. Comments and heredocs declare nothing."""
    code = _HEREDOC.sub('""', hcl)
    code = _COMMENT_OR_STRING.sub(lambda match: match[0] if match[0].startswith('"') else " ", code)
    return frozenset(match["name"] for match in _VARIABLE.finditer(code))


@dataclass(frozen=True, slots=True, kw_only=True)
class TemplateNeeds:
    """Which parts of a stack must be there before a job of this template is registered."""

    secret: bool
    workspace: bool
    live_files: bool

    @classmethod
    def of(cls, hcl: str) -> "TemplateNeeds":
        """Tell from the variables that the template declares: nobody declares one and does not use it."""
        declared = declared_variables(hcl)
        return cls(
            secret="secret_path" in declared,
            workspace="workspace_path" in declared,
            live_files="bundles_path" in declared,
        )
