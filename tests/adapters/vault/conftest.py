from real_vault import real_vault

__all__ = ["real_vault"]
