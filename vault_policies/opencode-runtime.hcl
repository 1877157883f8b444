# One runtime: reads the secret of its own job, and no other. It cannot list.
#
# Vault fills in the id of the job from the identity that Nomad vouches for. AUTH_METHOD_ACCESSOR stands for the
# accessor of the JWT auth method that Nomad's workloads log in with: `vault auth list` shows it.

path "kv/data/opencode/{{identity.entity.aliases.AUTH_METHOD_ACCESSOR.metadata.nomad_job_id}}" {
  capabilities = ["read"]
}
