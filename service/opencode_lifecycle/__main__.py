"""`python -m opencode_lifecycle`."""

from opencode_lifecycle.cli.main import main

main(prog_name="opencode-lifecycle")
