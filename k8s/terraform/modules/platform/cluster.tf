module "eks" {
  source = "git::https://github.com/terraform-aws-modules/terraform-aws-eks.git?ref=bef29c4d9523523e57fe898643fde2895106b339" # v21.19.0

  name               = local.name
  kubernetes_version = var.kubernetes_version
  vpc_id             = module.vpc.vpc_id
  subnet_ids         = module.vpc.private_subnets

  endpoint_private_access      = true
  endpoint_public_access       = length(var.operator_cidrs) > 0
  endpoint_public_access_cidrs = var.operator_cidrs
  deletion_protection          = module.layout.protection.deletion_protection
  # End of the standard support upgrades the cluster instead of multiplying its price.
  upgrade_policy = { support_type = "STANDARD" }

  enabled_log_types                      = ["api", "audit", "authenticator", "controllerManager", "scheduler"]
  cloudwatch_log_group_retention_in_days = module.layout.protection.log_days
  enable_kms_key_rotation                = true
  kms_key_deletion_window_in_days        = module.layout.protection.key_deletion_days

  # Pods get their rights by pod identity, so no OIDC provider of the cluster is needed.
  enable_irsa         = false
  authentication_mode = "API"
  access_entries = { for name, arn in var.administrators : name => {
    principal_arn = arn
    policy_associations = {
      administrator = {
        policy_arn   = "arn:aws:eks::aws:cluster-access-policy/AmazonEKSClusterAdminPolicy"
        access_scope = { type = "cluster" }
      }
    }
  } }

  addons = {
    coredns                = {}
    kube-proxy             = {}
    eks-pod-identity-agent = { before_compute = true }
    vpc-cni = {
      before_compute       = true
      configuration_values = jsonencode({ enableNetworkPolicy = "true" })
    }
    # Argo CD's project may make certificates, but not install what issues them.
    cert-manager = {}
    # The volumes of the stateful sets name no class.
    aws-ebs-csi-driver = {
      configuration_values = jsonencode({ defaultStorageClass = { enabled = true } })
      pod_identity_association = [{
        role_arn        = module.volumes_role.iam_role_arn
        service_account = "ebs-csi-controller-sa"
      }]
    }
  }

  eks_managed_node_groups = {
    workers = {
      instance_types = module.layout.nodes.instance_types
      ami_type       = module.layout.nodes.ami_type
      capacity_type  = module.layout.nodes.capacity_type
      min_size       = module.layout.nodes.min_size
      max_size       = module.layout.nodes.max_size
      desired_size   = module.layout.nodes.desired_size
      block_device_mappings = {
        root = {
          device_name = "/dev/xvda"
          ebs         = { volume_size = 40, volume_type = "gp3", encrypted = true, delete_on_termination = true }
        }
      }
      # Pods must not get at the node's own rights.
      metadata_options   = { http_endpoint = "enabled", http_tokens = "required", http_put_response_hop_limit = 1 }
      node_repair_config = { enabled = true }
      update_config      = { max_unavailable_percentage = 33 }
    }
  }

  tags = local.tags
}
