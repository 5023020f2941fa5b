module "platform" {
  source = "../../modules/platform"

  environment        = "dev"
  vpc_cidr           = var.vpc_cidr
  zones              = var.zones
  shards             = var.shards
  node_type          = var.node_type
  spot               = var.spot
  protected          = var.protected
  noncurrent_days    = var.noncurrent_days
  cold_days          = var.cold_days
  kubernetes_version = var.kubernetes_version
  operator_cidrs     = var.operator_cidrs
  administrators     = var.administrators
  namespace          = var.namespace
  gitops             = var.gitops
  registry           = var.registry
  github             = var.github
}

output "platform" {
  description = "Names, addresses and roles that the other settings need"
  value       = module.platform
}
