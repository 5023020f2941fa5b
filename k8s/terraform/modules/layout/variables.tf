variable "environment" {
  description = "dev or prod: a part of every name"
  type        = string

  validation {
    condition     = contains(["dev", "prod"], var.environment)
    error_message = "There are two environments, dev and prod."
  }
}

variable "account_id" {
  description = "AWS account: a part of the buckets' names, which are unique in the world"
  type        = string

  validation {
    condition     = can(regex("^[0-9]{12}$", var.account_id))
    error_message = "An account has twelve digits."
  }
}

variable "vpc_cidr" {
  description = "Network of the VPC, a /16"
  type        = string

  validation {
    condition     = can(cidrhost(var.vpc_cidr, 0)) && endswith(var.vpc_cidr, "/16")
    error_message = "The subnets are cut from a /16."
  }
}

variable "zone_count" {
  description = "Availability zones that nodes live in; EKS itself wants two"
  type        = number

  validation {
    condition     = var.zone_count >= 2 && var.zone_count <= 4
    error_message = "Two to four zones."
  }
}

variable "shards" {
  description = "Shards of the stream processor: one pod each"
  type        = number

  validation {
    condition     = var.shards >= 1 && var.shards <= 64 && floor(var.shards) == var.shards
    error_message = "One to 64 shards."
  }
}

variable "node_type" {
  description = "EC2 type of the nodes"
  type        = string

  validation {
    condition     = contains(["t4g.large", "m7g.large", "m7g.xlarge"], var.node_type)
    error_message = "A type whose room for pods is known in sizing.tf."
  }
}

variable "spot" {
  description = "Nodes that AWS may take back with two minutes' notice, at a third of the price"
  type        = bool
}

variable "protected" {
  description = "Data and cluster can't be destroyed by Terraform, and no single zone, gateway or spot market takes them down"
  type        = bool

  validation {
    condition     = !var.protected || (var.zone_count >= 3 && !var.spot)
    error_message = "What is protected has three zones and no spot nodes."
  }
}

variable "noncurrent_days" {
  description = "Days for which a deleted or overwritten object can be brought back"
  type        = number

  validation {
    condition     = var.noncurrent_days >= 1
    error_message = "At least a day."
  }
}

variable "cold_days" {
  description = "Days after which tables move to storage for rarely read data; null: never"
  type        = number
  default     = null

  validation {
    condition     = var.cold_days == null || try(var.cold_days >= 30, false)
    error_message = "S3 moves nothing to STANDARD_IA before 30 days."
  }
}
