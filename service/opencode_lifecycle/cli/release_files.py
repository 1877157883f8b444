"""What a new release is to be, read from files."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import click

LARGEST_FILE: Final = 256 * 1024
"""No text of a release may be longer, so a file that is larger was named by mistake."""

FILE: Final = click.Path(exists=True, dir_okay=False, path_type=Path)


class PromptType(click.ParamType[tuple[str, Path]]):
    """The name of an agent with the file that holds its prompt: `NAME=FILE`."""

    name = "name=file"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[str, Path]:
        if isinstance(value, tuple):
            return value
        name, equals, file = str(value).partition("=")
        if not name or not equals:
            self.fail("write it as NAME=FILE", param, ctx)
        return name, FILE.convert(file, param, ctx)


def text_of(file: Path) -> str:
    """Return what *file* holds, or end with a usage error that does not repeat it."""
    try:
        with file.open("rb") as opened:
            content = opened.read(LARGEST_FILE + 1)
        if len(content) > LARGEST_FILE:
            raise click.UsageError(f"{file}: is larger than any text of a release")
        return content.decode()
    except UnicodeDecodeError:
        raise click.UsageError(f"{file}: is not text in UTF-8") from None
    except OSError as error:
        raise click.UsageError(f"{file}: {error.strerror}") from None


def instructions_of(files: Sequence[Path]) -> str:
    """Return the text of one file as it is; several are joined, each under a heading with its name."""
    if len(files) == 1:
        return text_of(files[0])
    return "\n".join(f"# {file.name}\n\n{text_of(file).strip()}\n" for file in files)


def prompts_of(files: Sequence[tuple[str, Path]]) -> Mapping[str, str]:
    names = [name for name, _ in files]
    for name in names:
        if names.count(name) > 1:
            raise click.UsageError(f"--agent-prompt: {name} is given twice")
    return {name: text_of(file) for name, file in files}


def object_of(file: Path) -> Mapping[str, Any]:
    """Return the JSON object that *file* holds."""
    try:
        found = json.loads(text_of(file))
    except ValueError as error:
        raise click.UsageError(f"{file}: is not JSON: {error}") from None
    if not isinstance(found, dict):
        raise click.UsageError(f"{file}: is not a JSON object")
    return found
