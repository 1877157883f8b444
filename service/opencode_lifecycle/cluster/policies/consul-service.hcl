# The lifecycle service: reads the instances of its own runtimes and their health, and takes one away whose runtime is
# gone. Consul has no right that is for taking away alone: whoever holds it may also register services of these names.
service_prefix "oc-" {
  policy = "write"
}

# The lists are by node, and the health calls filter by node, too.
node_prefix "" {
  policy = "read"
}

# To know which node the agent that it talks to is: what that one has, it has to give up itself, or it puts it back.
agent_prefix "" {
  policy = "read"
}
