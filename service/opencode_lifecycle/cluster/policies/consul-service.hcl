# The lifecycle service: reads the instances of its own runtimes and their health, and takes an orphaned instance out of
# the catalogue. The health calls filter by node, too.
service_prefix "oc-" {
  policy = "write"
}
node_prefix "" {
  policy = "read"
}
agent_prefix "" {
  policy = "read"
}
