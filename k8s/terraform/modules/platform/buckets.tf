resource "aws_kms_key" "archive" {
  description             = "${local.name}: archive, manifests and models"
  enable_key_rotation     = true
  deletion_window_in_days = module.layout.protection.key_deletion_days
  policy                  = data.aws_iam_policy_document.key.json
  tags                    = local.tags
}

resource "aws_kms_alias" "archive" {
  name          = "alias/${local.name}-archive"
  target_key_id = aws_kms_key.archive.key_id
}

# The account decides by IAM who may use the key; without this statement nobody could ever change it.
data "aws_iam_policy_document" "key" {
  #checkov:skip=CKV_AWS_109:A key's policy is about that key alone, and `*` is the only way to say so
  #checkov:skip=CKV_AWS_111:The same
  #checkov:skip=CKV_AWS_356:The same
  statement {
    sid       = "Account"
    actions   = ["kms:*"]
    resources = ["*"]

    principals {
      type        = "AWS"
      identifiers = ["arn:aws:iam::${data.aws_caller_identity.current.account_id}:root"]
    }
  }
}

module "archive" {
  source = "git::https://github.com/terraform-aws-modules/terraform-aws-s3-bucket.git?ref=dd0c434de5e74d8864e249ee020d917b076b6e32" # v5.15.4

  bucket        = module.layout.bucket
  force_destroy = module.layout.protection.force_destroy

  control_object_ownership = true
  object_ownership         = "BucketOwnerEnforced"
  block_public_acls        = true
  block_public_policy      = true
  ignore_public_acls       = true
  restrict_public_buckets  = true

  attach_deny_insecure_transport_policy = true
  attach_require_latest_tls_policy      = true

  versioning     = { enabled = true }
  lifecycle_rule = module.layout.lifecycle_rules
  logging        = { target_bucket = module.access_logs.s3_bucket_id, target_prefix = "archive/" }
  server_side_encryption_configuration = {
    rule = {
      # One call to the key service per object would cost more than the objects.
      bucket_key_enabled                      = true
      apply_server_side_encryption_by_default = { sse_algorithm = "aws:kms", kms_master_key_id = aws_kms_key.archive.arn }
    }
  }
  tags = local.tags
}

# Encrypted by S3's own key: its log delivery can't use one of ours.
module "access_logs" {
  source = "git::https://github.com/terraform-aws-modules/terraform-aws-s3-bucket.git?ref=dd0c434de5e74d8864e249ee020d917b076b6e32" # v5.15.4

  bucket        = module.layout.access_logs
  force_destroy = module.layout.protection.force_destroy

  control_object_ownership = true
  object_ownership         = "BucketOwnerEnforced"
  block_public_acls        = true
  block_public_policy      = true
  ignore_public_acls       = true
  restrict_public_buckets  = true

  attach_deny_insecure_transport_policy      = true
  attach_require_latest_tls_policy           = true
  attach_access_log_delivery_policy          = true
  access_log_delivery_policy_source_accounts = [data.aws_caller_identity.current.account_id]
  access_log_delivery_policy_source_buckets  = ["arn:aws:s3:::${module.layout.bucket}"]

  versioning = { enabled = true }
  lifecycle_rule = [{
    id                            = "old"
    enabled                       = true
    filter                        = { prefix = "" }
    expiration                    = { days = module.layout.protection.log_days }
    noncurrent_version_expiration = { days = 1 }
  }]
  server_side_encryption_configuration = {
    rule = { apply_server_side_encryption_by_default = { sse_algorithm = "AES256" } }
  }
  tags = local.tags
}
