# The lifecycle service: makes, reads, rotates and destroys the secrets of stacks, and nothing else.

path "kv/data/opencode/+" {
  capabilities = ["create", "update", "read", "delete"]
}

# Versions are compared with what runs, the whole secret goes with its stack, and whose it is is written beside it.
path "kv/metadata/opencode/+" {
  capabilities = ["read", "delete", "patch"]
}

# Names only: finds secrets whose stack is gone.
path "kv/metadata/opencode" {
  capabilities = ["list"]
}
path "kv/metadata/opencode/" {
  capabilities = ["list"]
}

path "kv/delete/opencode/+" {
  capabilities = ["update"]
}

path "kv/destroy/opencode/+" {
  capabilities = ["update"]
}

# One-time tokens that open to a user's credentials.
path "sys/wrapping/wrap" {
  capabilities = ["update"]
}

# Its own token.
path "auth/token/lookup-self" {
  capabilities = ["read"]
}
path "auth/token/renew-self" {
  capabilities = ["update"]
}
