# The Consul agent itself: keeps its own node up to date in the catalogue.
node "opencode" {
  policy = "write"
}
service_prefix "" {
  policy = "read"
}
