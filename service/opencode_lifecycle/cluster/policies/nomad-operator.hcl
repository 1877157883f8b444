# People with the nomad CLI or its web UI.
namespace "opencode" {
  policy       = "write"
  capabilities = ["parse-job", "host-volume-create", "host-volume-read", "host-volume-write", "host-volume-delete"]

  variables {
    path "*" {
      capabilities = ["read", "write", "list", "destroy"]
    }
  }
}

namespace "default" {
  policy = "read"
}

host_volume "*" {
  policy = "write"
}

node {
  policy = "write"
}

node_pool "*" {
  policy = "read"
}

agent {
  policy = "read"
}

operator {
  policy = "read"
}
