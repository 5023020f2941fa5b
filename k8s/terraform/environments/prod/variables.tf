variable "region" {
  description = "AWS region"
  type        = string
}

variable "account_id" {
  description = "The account that this environment is in"
  type        = string
}

variable "vpc_cidr" {
  description = "Network of the VPC, a /16"
  type        = string
}

variable "zones" {
  description = "Availability zones that nodes live in"
  type        = list(string)
}

variable "shards" {
  description = "Shards of the stream processor"
  type        = number
}

variable "node_type" {
  description = "EC2 type of the nodes (arm64)"
  type        = string
}

variable "spot" {
  description = "Spot instead of on-demand nodes"
  type        = bool
}

variable "protected" {
  description = "Nothing that holds data can be destroyed, no single zone takes it down"
  type        = bool
}

variable "noncurrent_days" {
  description = "Days for which a deleted or overwritten object can be brought back"
  type        = number
}

variable "cold_days" {
  description = "Days after which tables move to storage for rarely read data; null: never"
  type        = number
}

variable "kubernetes_version" {
  description = "Minor version of EKS"
  type        = string
}

variable "operator_cidrs" {
  description = "Networks from which the API server can be reached; empty: only from within the VPC"
  type        = list(string)

  validation {
    condition     = !contains(var.operator_cidrs, "0.0.0.0/0")
    error_message = "Not the whole world."
  }
}

variable "administrators" {
  description = "Name to ARN of the IAM roles that administer the cluster; whoever runs Terraform has to be one, or Argo CD can't be installed"
  type        = map(string)
}

variable "namespace" {
  description = "Kubernetes namespace of the workloads"
  type        = string
}

variable "gitops" {
  description = "Where Argo CD finds what it keeps the cluster equal to: repository (URL), revision (branch) and path of the app of apps"
  type        = object({ repository = string, revision = string, path = string })
}

variable "registry" {
  description = "Whether this environment holds the container registry, and which other accounts pull from it"
  type        = object({ create = bool, reader_accounts = list(string) })
}

variable "github" {
  description = "OWNER/NAME of the repository whose workflows may assume roles here, and the ARN of GitHub's OIDC provider if the account has one already"
  type        = object({ repository = string, provider_arn = optional(string) })

  validation {
    condition     = can(regex("^[A-Za-z0-9-]+/[A-Za-z0-9._-]+$", var.github.repository))
    error_message = "OWNER/NAME, without wildcards: it is what decides who may assume the roles."
  }
}
