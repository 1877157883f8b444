"""`python -m opencode_lifecycle.state_machines` writes the page to stdout."""

import sys

from opencode_lifecycle.state_machines.page import document

sys.stdout.write(document())
