"""The real servers that the contract suites run against."""

from real_consul import real_consul
from real_vault import real_vault

__all__ = ["real_consul", "real_vault"]
