from real_consul import real_consul

__all__ = ["real_consul"]
