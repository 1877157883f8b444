# The Nomad agent: registers itself, and takes away services of jobs that ended. It puts the jobs' own services there
# with the identity of each workload, not with this token.
agent "opencode" {
  policy = "read"
}
node "opencode" {
  policy = "read"
}
service "nomad" {
  policy = "write"
}
service "nomad-client" {
  policy = "write"
}
service_prefix "oc-" {
  policy = "write"
}
