# Every job of the namespace: read the texts of live files. Attached to the namespace, so no token carries it.
namespace "opencode" {
  variables {
    path "opencode/bundles/*" {
      capabilities = ["read"]
    }
  }
}
