# The lifecycle service: reads the instances of its own runtimes and their health. The health calls filter by node, too.
service_prefix "oc-" {
  policy = "read"
}
node_prefix "" {
  policy = "read"
}
agent_prefix "" {
  policy = "read"
}
