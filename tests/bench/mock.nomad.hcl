# A runtime that costs nothing, for measuring the control plane alone: no OpenCode, no log collector, no network.

variable "job_id" {
  type = string
}

variable "namespace" {
  type    = string
  default = "opencode"
}

variable "installation" {
  type = string
}

variable "user_id" {
  type = string
}

variable "image" {
  type = string
}

variable "opencode_version" {
  type = string
}

variable "template_digest" {
  type = string
}

variable "environment_digest" {
  type = string
}

variable "resources_digest" {
  type = string
}

variable "secret_version" {
  type = number
}

variable "revision" {
  type = string
}

# Declared and not used, so that a secret is made: the job that reads it would measure Vault.
variable "secret_path" {
  type = string
}

variable "cpu" {
  type = number
}

variable "memory" {
  type = number
}

job "mock" {
  id        = var.job_id
  name      = var.job_id
  namespace = var.namespace
  type      = "service"

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

  update {
    max_parallel = 0
  }

  group "mock" {
    task "server" {
      driver = "mock_driver"

      config {
        run_for = "24h"
      }

      logs {
        disabled = true
      }

      resources {
        cpu    = var.cpu
        memory = var.memory
      }
    }
  }
}
