locals {
  name          = "millwright-${var.environment}"
  bucket        = "${local.name}-archive-${var.account_id}"
  bucket_arn    = "arn:aws:s3:::${local.bucket}"
  access_logs   = "${local.name}-logs-${var.account_id}"
  images        = toset(["edge-agent", "stream-processor"])
  zone_ordinals = range(var.zone_count)
}

output "name" {
  description = "Of the cluster and the VPC, and the beginning of every other name"
  value       = local.name
}

output "bucket" {
  description = "Archive, manifests and models"
  value       = local.bucket
}

output "access_logs" {
  description = "Bucket of the access logs"
  value       = local.access_logs
}

output "repositories" {
  description = "Image to repository. Both environments pull the same image, so no environment is in its name"
  value       = { for image in local.images : image => "millwright/${image}" }
}

output "tags" {
  description = "On everything"
  value       = { project = "millwright", environment = var.environment, managed-by = "terraform" }
}

output "private_subnets" {
  description = "A /19 per zone: with the VPC's own addresses for pods, these are what runs out first"
  value       = [for n in local.zone_ordinals : cidrsubnet(var.vpc_cidr, 3, n)]
}

output "public_subnets" {
  description = "A /24 per zone, for NAT and load balancers, behind the private ones"
  value       = [for n in local.zone_ordinals : cidrsubnet(var.vpc_cidr, 8, 128 + n)]
}
