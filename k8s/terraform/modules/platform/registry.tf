module "registry" {
  source   = "git::https://github.com/terraform-aws-modules/terraform-aws-ecr.git?ref=b6ef04d088cf91d5ba9505132e9ff7c9f847ed5d" # v3.2.0
  for_each = var.registry.create ? module.layout.repositories : {}

  repository_name               = each.value
  repository_image_scan_on_push = true
  repository_force_delete       = module.layout.protection.force_destroy
  repository_read_access_arns   = [for account in var.registry.reader_accounts : "arn:aws:iam::${account}:root"]

  # A released version never changes; `latest` is a developer's build and does.
  repository_image_tag_mutability                  = "IMMUTABLE_WITH_EXCLUSION"
  repository_image_tag_mutability_exclusion_filter = [{ filter = "latest", filter_type = "WILDCARD" }]

  repository_lifecycle_policy = jsonencode({
    rules = [{
      rulePriority = 1
      description  = "What no tag names any more"
      selection    = { tagStatus = "untagged", countType = "sinceImagePushed", countUnit = "days", countNumber = 30 }
      action       = { type = "expire" }
    }]
  })
  tags = local.tags
}
