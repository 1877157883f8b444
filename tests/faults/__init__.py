"""Faults put into the real Nomad, Consul, Vault and OpenCode, and into the service itself, while stacks are in use."""
