module "vpc" {
  source = "git::https://github.com/terraform-aws-modules/terraform-aws-vpc.git?ref=82d1929e669efef4e2ad00611b8a68e7a56e049c" # v6.6.0

  name            = local.name
  cidr            = var.vpc_cidr
  azs             = var.zones
  private_subnets = module.layout.private_subnets
  public_subnets  = module.layout.public_subnets

  # Nodes have private addresses only; a gateway per zone costs, so dev shares one.
  enable_nat_gateway      = true
  single_nat_gateway      = module.layout.protection.single_nat_gateway
  one_nat_gateway_per_az  = !module.layout.protection.single_nat_gateway
  map_public_ip_on_launch = false
  enable_dns_hostnames    = true

  # The default group lets everything talk to everything: emptied, so that nothing can use it by mistake.
  manage_default_security_group  = true
  default_security_group_ingress = []
  default_security_group_egress  = []

  enable_flow_log                                 = module.layout.protection.flow_logs
  create_flow_log_cloudwatch_log_group            = module.layout.protection.flow_logs
  create_flow_log_cloudwatch_iam_role             = module.layout.protection.flow_logs
  flow_log_cloudwatch_log_group_retention_in_days = module.layout.protection.log_days

  public_subnet_tags  = { "kubernetes.io/role/elb" = "1" }
  private_subnet_tags = { "kubernetes.io/role/internal-elb" = "1" }
  tags                = local.tags
}

# Traffic to S3, which is nearly all there is, passes no NAT gateway and costs nothing.
module "endpoints" {
  source = "git::https://github.com/terraform-aws-modules/terraform-aws-vpc.git//modules/vpc-endpoints?ref=82d1929e669efef4e2ad00611b8a68e7a56e049c" # v6.6.0

  vpc_id = module.vpc.vpc_id
  endpoints = {
    s3 = {
      service         = "s3"
      service_type    = "Gateway"
      route_table_ids = module.vpc.private_route_table_ids
    }
  }
  tags = local.tags
}
