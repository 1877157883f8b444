"""The embedded cluster: real Consul, Vault, Nomad and the service on one machine, supervised. Linux only."""
