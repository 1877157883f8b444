# The lifecycle service. No alloc-exec, no node or operator writes, and no namespace but its own. It reads files of
# allocations (read-fs) to see that live files have come; Nomad keeps their secrets from everyone.
namespace "opencode" {
  capabilities = [
    "parse-job", "list-jobs", "read-job", "register-job", "deregister-job", "purge-job", "plan-job", "evaluate-job",
    "revert-job", "tag-job-version", "alloc-lifecycle", "fail-deployment", "read-logs", "read-fs",
    "host-volume-create", "host-volume-read", "host-volume-delete",
  ]

  variables {
    # Texts of live files, stored once by content, and the pointer of each job to them.
    path "opencode/bundles/*" {
      capabilities = ["read", "write", "list", "destroy"]
    }
    # The mark by which the installation knows its cluster again.
    path "opencode/installations/*" {
      capabilities = ["read", "write"]
    }
    path "nomad/jobs/*" {
      capabilities = ["read", "write", "list", "destroy"]
    }
  }
}

# A job that claims its workspace needs the right to mount it.
host_volume "oc-*" {
  capabilities = ["mount-readwrite"]
}

# To make no workspace on a node that takes nothing new, and to follow drains.
node {
  policy = "read"
}

agent {
  policy = "read"
}
