"""The real servers that the contract suites run against."""

from real_consul import real_consul
from real_opencode import open_opencode, opencode_program, real_opencode
from real_vault import real_vault

__all__ = ["open_opencode", "opencode_program", "real_consul", "real_opencode", "real_vault"]
