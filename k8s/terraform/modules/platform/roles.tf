locals {
  # S3 asks for these in the name of whoever reads and writes objects under the key.
  key_statement = {
    sid       = "Key"
    actions   = ["kms:Decrypt", "kms:GenerateDataKey"]
    resources = [aws_kms_key.archive.arn]
  }
  # Service accounts of k8s/: a program and its role have one name.
  service_accounts = { processor = "stream-processor", compactor = "compactor", trainer = "trainer" }
}

module "workload_role" {
  source   = "git::https://github.com/terraform-aws-modules/terraform-aws-eks-pod-identity.git?ref=2cbd87e243fcbf74385331dcf983e273eeb7aa36" # v2.8.1
  for_each = local.service_accounts

  name                 = "${local.name}-${each.key}"
  use_name_prefix      = false
  description          = "What ${each.value} may do in S3"
  attach_custom_policy = true
  policy_statements    = concat(module.layout.statements[each.key], [local.key_statement])

  associations = {
    this = {
      cluster_name    = module.eks.cluster_name
      namespace       = var.namespace
      service_account = each.value
    }
  }
  tags = local.tags
}

# No association: the driver's add-on makes it.
module "volumes_role" {
  source = "git::https://github.com/terraform-aws-modules/terraform-aws-eks-pod-identity.git?ref=2cbd87e243fcbf74385331dcf983e273eeb7aa36" # v2.8.1

  name                      = "${local.name}-volumes"
  use_name_prefix           = false
  attach_aws_ebs_csi_policy = true
  tags                      = local.tags
}
