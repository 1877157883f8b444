from real_vault import real_vault, vault_server

__all__ = ["real_vault", "vault_server"]
