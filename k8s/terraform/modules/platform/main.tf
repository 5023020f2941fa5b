data "aws_caller_identity" "current" {}

module "layout" {
  source = "../layout"

  environment     = var.environment
  account_id      = data.aws_caller_identity.current.account_id
  vpc_cidr        = var.vpc_cidr
  zone_count      = length(var.zones)
  shards          = var.shards
  node_type       = var.node_type
  spot            = var.spot
  protected       = var.protected
  noncurrent_days = var.noncurrent_days
  cold_days       = var.cold_days
}

locals {
  name = module.layout.name
  tags = module.layout.tags
}
