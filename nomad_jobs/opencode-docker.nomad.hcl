# One user's OpenCode server, run as a container.
#
# nomad_jobs/README.md tells how to run it by hand. The raw_exec file beside it takes the same variables.

# Who it is

variable "job_id" {
  type        = string
  description = "Name of the job, of its Consul service, its Vault secret and its volume."
  validation {
    condition     = var.job_id != "" && regex_replace(var.job_id, "^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$", "") == ""
    error_message = "The job_id is 1 to 63 characters of a-z, 0-9 and inner hyphens."
  }
}

variable "namespace" {
  type        = string
  description = "Nomad namespace."
  default     = "opencode"
}

variable "node_pool" {
  type        = string
  description = "Nomad node pool."
  default     = "default"
}

variable "datacenters" {
  type        = list(string)
  description = "Datacenters that may run it; wildcards are allowed."
  default     = ["*"]
}

variable "installation" {
  type        = string
  description = "Which installation of the control plane owns the job; others leave it alone."
  default     = "main"
  validation {
    condition     = var.installation != "" && regex_replace(var.installation, "^[a-z0-9]{1,12}$", "") == ""
    error_message = "The installation is 1 to 12 characters of a-z and 0-9."
  }
}

variable "user_id" {
  type        = string
  description = "The user it belongs to."
  validation {
    condition     = var.user_id != "" && regex_replace(var.user_id, "^[A-Za-z0-9][A-Za-z0-9._@:+|~=-]{0,127}$", "") == ""
    error_message = "The user_id is 1 to 128 characters: a letter or digit, then letters, digits or any of . _ @ : + | ~ = and -."
  }
}

# What it is: each of these stands in the job's meta, and a change of it restarts the task

variable "image" {
  type        = string
  description = "Image with OpenCode and entrypoint.py, best by digest."
  validation {
    condition     = var.image != "" && regex_replace(var.image, "^[A-Za-z0-9._/:@-]*$", "") == ""
    error_message = "The image is a reference such as registry.example/opencode@sha256:..."
  }
}

variable "opencode_version" {
  type        = string
  description = "Version of OpenCode that the server must report."
  validation {
    condition     = var.opencode_version != "" && regex_replace(var.opencode_version, "^[0-9]+[.][0-9]+[.][0-9]+$", "") == ""
    error_message = "The opencode_version is three numbers, such as 1.18.34."
  }
}

variable "template_digest" {
  type        = string
  description = "Digest of this file."
  default     = "by-hand"
}

variable "environment_digest" {
  type        = string
  description = "Digest of the environment and of the names in secret_environment."
  default     = "by-hand"
}

variable "resources_digest" {
  type        = string
  description = "Digest of cpu, memory and memory_max."
  default     = "by-hand"
}

variable "secret_version" {
  type        = number
  description = "Version of the Vault secret that the task reads, and no other."
  default     = 1
  validation {
    condition     = var.secret_version >= 1 && floor(var.secret_version) == var.secret_version
    error_message = "The secret_version is a whole number from 1."
  }
}

variable "revision" {
  type        = string
  description = "Digest over the facets above, which makes two jobs comparable at a glance."
  default     = "by-hand"
}

# What it may use

variable "cpu" {
  type        = number
  description = "CPU share in MHz."
  default     = 200
  validation {
    condition     = var.cpu >= 1
    error_message = "The cpu is at least 1 MHz."
  }
}

variable "memory" {
  type        = number
  description = "Memory reserved, in MiB."
  default     = 512
  validation {
    condition     = var.memory >= 10
    error_message = "The memory is at least 10 MiB."
  }
}

variable "memory_max" {
  type        = number
  description = "Memory it may grow to where the cluster allows oversubscription, in MiB."
  default     = 2048
  validation {
    condition     = var.memory_max >= 10
    error_message = "The memory_max is at least 10 MiB."
  }
}

# What it is told

variable "environment" {
  type        = map(string)
  description = "Further environment variables; no secrets."
  default     = {}
  validation {
    condition     = length([for name, value in var.environment : name if regex_replace(name, "^[A-Za-z_][A-Za-z0-9_]*$", "") != "" || regex_replace(value, "[$]{|{{", "") != value]) == 0
    error_message = "In environment, names are letters, digits and _, and values hold neither a dollar-brace nor two braces."
  }
}

variable "secret_environment" {
  type        = list(string)
  description = "Names under env of the Vault secret that are passed on. A name that the secret lacks is left out."
  default     = []
  validation {
    condition     = length([for name in var.secret_environment : name if regex_replace(name, "^[A-Z][A-Z0-9_]{0,63}$", "") != ""]) == 0
    error_message = "In secret_environment, names are capitals, digits and _."
  }
}

variable "vault_role" {
  type        = string
  description = "Role of Vault's JWT auth method that the task logs in with."
  default     = "opencode"
}

variable "secret_path" {
  type        = string
  description = "API path of the KV v2 secret; kv/data/opencode/<job_id> when empty."
  default     = ""
  validation {
    condition     = regex_replace(var.secret_path, "^[A-Za-z0-9/_-]*$", "") == ""
    error_message = "The secret_path is made of letters, digits, / _ and -."
  }
}

variable "workspace_node" {
  type        = string
  description = "Id of the node that has the workspace volume; any node when empty."
  default     = ""
  validation {
    condition     = regex_replace(var.workspace_node, "^[0-9a-f-]*$", "") == ""
    error_message = "The workspace_node is a node's id."
  }
}

variable "workspace_path" {
  type        = string
  description = "Where in the container the workspace volume is mounted."
  default     = "/workspace"
  validation {
    condition     = var.workspace_path != "" && regex_replace(var.workspace_path, "^/[A-Za-z0-9._/@+ -]*$", "") == ""
    error_message = "The workspace_path is an absolute path without special characters."
  }
}

variable "restore_snapshot" {
  type        = string
  description = "Id of the snapshot to restore where the data is newer than opencode_version; none when empty."
  default     = ""
  validation {
    condition     = regex_replace(var.restore_snapshot, "^[0-9A-Z]{26}$", "") == ""
    error_message = "The restore_snapshot is the 26 capitals and digits of a snapshot's id."
  }
}

variable "bundles_path" {
  type        = string
  description = "Where in Nomad's variables the texts of the live files lie."
  default     = "opencode/bundles"
  validation {
    condition     = var.bundles_path != "" && regex_replace(var.bundles_path, "^[A-Za-z0-9/_-]+$", "") == ""
    error_message = "The bundles_path is made of letters, digits, / _ and -."
  }
}

variable "entrypoint" {
  type        = list(string)
  description = "What starts OpenCode: the command and first arguments that run entrypoint.py in the image."
  default     = ["/usr/local/bin/opencode-entrypoint"]
  validation {
    condition     = length(var.entrypoint) > 0 && length([for word in var.entrypoint : word if regex_replace(word, "[$]{|{{", "") != word]) == 0
    error_message = "The entrypoint is a command and its first arguments, without dollar-braces."
  }
}

variable "opencode_path" {
  type        = string
  description = "The OpenCode executable: a path, or a name to look up in PATH."
  default     = "opencode"
  validation {
    condition     = var.opencode_path != "" && regex_replace(var.opencode_path, "[$]{|{{", "") == var.opencode_path
    error_message = "The opencode_path is a path without dollar-braces."
  }
}

# What is told about it: changes in place

variable "description" {
  type        = string
  description = "Markdown for Nomad's web UI, below 1000 characters."
  default     = "A private OpenCode server."
}

variable "public_url" {
  type        = string
  description = "Where browsers reach it, for a link in Nomad's web UI; none when empty."
  default     = ""
  validation {
    condition     = regex_replace(var.public_url, "^https?://[A-Za-z0-9._~:/?#@!&()*+,;=%-]+$", "") == ""
    error_message = "The public_url is an http or https address."
  }
}

variable "labels" {
  type        = map(string)
  description = "Tags name=value of the Consul service; the control plane sets them as its meta, too."
  default     = {}
  validation {
    condition     = length([for name, value in var.labels : name if regex_replace(name, "^[a-z][a-z0-9_-]{0,31}$", "") != "" || regex_replace(value, "[$]{|{{", "") != value]) == 0
    error_message = "In labels, names are at most 32 characters of a-z, 0-9, _ and -, and values hold neither a dollar-brace nor two braces."
  }
}

locals {
  secret_path      = var.secret_path == "" ? "kv/data/opencode/${var.job_id}" : var.secret_path
  pointer          = "nomad/jobs/${var.job_id}/opencode/server"
}

job "opencode" {
  id          = var.job_id
  name        = var.job_id
  namespace   = var.namespace
  node_pool   = var.node_pool
  datacenters = var.datacenters
  type        = "service"

  # Only what forces a restart, since any change here is one.
  meta {
    image            = var.image
    opencode_version = var.opencode_version
    template         = var.template_digest
    environment      = var.environment_digest
    resources        = var.resources_digest
    secret_version   = "${var.secret_version}"
    revision         = var.revision
    user             = var.user_id
    installation     = var.installation
    managed_by       = "opencode-lifecycle"
  }

  ui {
    description = var.description

    dynamic "link" {
      for_each = var.public_url == "" ? [] : [var.public_url]
      content {
        label = "Open in a browser"
        url   = link.value
      }
    }
  }

  # No deployments: the control plane proves what it starts, and one allocation leaves Nomad nothing to pace.
  update {
    max_parallel = 0
  }

  # A node drain takes nothing before its deadline, so that a working agent can be waited for.
  migrate {
    max_parallel = 0
  }

  group "opencode" {
    count = 1

    # Where the workspace lies, there and nowhere else can it run.
    dynamic "constraint" {
      for_each = var.workspace_node == "" ? [] : [var.workspace_node]
      content {
        attribute = "${node.unique.id}"
        value     = constraint.value
      }
    }

    # The workspace is bound to its node: a network split must not end the session that goes on there.
    disconnect {
      lost_after = "24h"
      replace    = false
      reconcile  = "keep_original"
    }

    restart {
      attempts = 3
      interval = "5m"
      delay    = "10s"
      mode     = "fail"
    }

    reschedule {
      unlimited      = true
      delay          = "10s"
      delay_function = "exponential"
      max_delay      = "2m"
    }

    network {
      mode = "bridge"

      port "http" {
        to = 4096
      }
    }

    # Claimed by one allocation at a time: two servers on one workspace destroy each other's sessions.
    volume "workspace" {
      type            = "host"
      source          = var.job_id
      access_mode     = "single-node-single-writer"
      attachment_mode = "file-system"
    }

    task "server" {
      driver       = "docker"
      kill_signal  = "SIGTERM"
      kill_timeout = "15s"

      config {
        image      = var.image
        ports      = ["http"]
        entrypoint = var.entrypoint
        args = [
          "--workspace", var.workspace_path, "--secrets", "${NOMAD_SECRETS_DIR}/opencode.env",
          "--opencode-version", var.opencode_version, "--restore", var.restore_snapshot, "--",
          var.opencode_path, "serve", "--hostname", "0.0.0.0", "--port", "${NOMAD_PORT_http}",
        ]

        readonly_rootfs = true
        cap_drop        = ["ALL"]
        security_opt    = ["no-new-privileges"]
        pids_limit      = 1024

        mount {
          type     = "bind"
          source   = "local/live/managed"
          target   = "/etc/opencode"
          readonly = true
        }

        mount {
          type   = "tmpfs"
          target = "/tmp"
          tmpfs_options {
            size = 67108864
          }
        }
      }

      volume_mount {
        volume      = "workspace"
        destination = var.workspace_path
      }

      # Explicit, so that a change of the servers' defaults restarts nobody.
      identity {
        name = "vault_default"
        aud  = ["vault.io"]
        ttl  = "1h"
      }

      # The task gets the rendered password and never a Vault token.
      vault {
        role         = var.vault_role
        env          = false
        disable_file = true
        change_mode  = "noop"
      }

      env = merge(var.environment, {
        HOME                          = "${var.workspace_path}/home"
        XDG_CONFIG_HOME               = "${var.workspace_path}/config"
        XDG_DATA_HOME                 = "${var.workspace_path}/data"
        XDG_STATE_HOME                = "${var.workspace_path}/state"
        XDG_CACHE_HOME                = "${var.workspace_path}/cache"
        TMPDIR                        = "${NOMAD_ALLOC_DIR}/tmp"
        OPENCODE_DISABLE_AUTOUPDATE   = "1"
        OPENCODE_DISABLE_MODELS_FETCH = "1"
        OPENCODE_LIVE_DIR             = "${NOMAD_TASK_DIR}/live"
      })

      # One version, read once: a Vault outage cannot end a task that runs, and a rotation is a new version of the job.
      # The entrypoint passes it on: Nomad loses env = true of a template that is read once when others are watched.
      template {
        destination          = "secrets/opencode.env"
        once                 = true
        error_on_missing_key = true
        perms                = "600"
        data                 = <<-EOT
          {{ with secret "${local.secret_path}?version=${var.secret_version}" }}
          OPENCODE_SERVER_PASSWORD={{ .Data.data.password | toJSON }}
          {{ with index .Data.data "env" }}
          %{~for name in var.secret_environment~}
          {{ with index . "${name}" }}
          ${name}={{ . | toJSON }}
          {{ end }}
          %{~endfor~}
          {{ end }}
          {{ end }}
        EOT
      }

      # Live files: the pointer names texts by digest; a new pointer changes the files under the running process.
      dynamic "template" {
        for_each = {
          instructions = "live/instructions/AGENTS.md"
          managed      = "live/managed/opencode.json"
        }
        content {
          destination = "local/${template.value}"
          change_mode = "noop"
          perms       = "644"
          data        = "{{ with nomadVar \"${local.pointer}\" }}{{ with nomadVar (print \"${var.bundles_path}/\" .${template.key}) }}{{ .text }}{{ end }}{{ end }}"
          wait {
            min = "1s"
            max = "5s"
          }
        }
      }

      resources {
        cpu        = var.cpu
        memory     = var.memory
        memory_max = var.memory_max
      }

      service {
        name     = var.job_id
        port     = "http"
        provider = "consul"
        tags     = [for name, value in var.labels : "${name}=${value}"]

        # HCL takes no computed keys here: the control plane adds the labels, and by hand they are tags only.
        meta {
          installation = var.installation
          managed_by   = "opencode-lifecycle"
        }

        identity {
          aud = ["consul.io"]
          ttl = "1h"
        }

        # A request would need the password, which Consul must not hold; the control plane asks with it.
        check {
          name     = "listening"
          type     = "tcp"
          port     = "http"
          interval = "10s"
          timeout  = "2s"
        }
      }
    }
  }
}
