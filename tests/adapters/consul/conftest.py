from real_consul import real_consul
from scripted_consul import catalog, consul, pauses, token_file

__all__ = ["catalog", "consul", "pauses", "real_consul", "token_file"]
