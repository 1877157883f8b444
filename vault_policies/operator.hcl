# Vault administrators: see and rotate the secrets of stacks by hand. Destroying one is the service's business, since it
# has to follow the end of the runtime.

path "kv/data/opencode/+" {
  capabilities = ["create", "update", "patch", "read"]
}

path "kv/metadata/opencode/+" {
  capabilities = ["read"]
}

path "kv/metadata" {
  capabilities = ["list"]
}
path "kv/metadata/" {
  capabilities = ["list"]
}
path "kv/metadata/opencode" {
  capabilities = ["list"]
}
path "kv/metadata/opencode/" {
  capabilities = ["list"]
}

# What `vault kv` asks first: the version of the mount.
path "sys/internal/ui/mounts" {
  capabilities = ["read"]
}
path "sys/internal/ui/mounts/kv/*" {
  capabilities = ["read"]
}

path "auth/token/lookup-self" {
  capabilities = ["read"]
}
path "auth/token/renew-self" {
  capabilities = ["update"]
}
path "sys/capabilities-self" {
  capabilities = ["update"]
}
