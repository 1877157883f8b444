"""The OpenCode lifecycle control plane: one private OpenCode server per user, as a Nomad job."""
