from real_opencode import open_opencode, opencode_program, real_opencode

__all__ = ["open_opencode", "opencode_program", "real_opencode"]
