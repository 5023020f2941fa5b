# What each program may do in the bucket. `.ci/terraform/check.py` compares the actions with what the code calls, and
# the keys with those that `proto` can form; `.ci/recording.py` compares both with what the running programs ask for.
locals {
  # Without this S3 answers 403 instead of 404 for a key that is not there, and finding the newest manifest needs the 404.
  # A condition on the prefix would take the 404 away again: GET and HEAD carry no prefix.
  find = { sid = "Find", actions = ["s3:ListBucket"], resources = [local.bucket_arn] }

  read = {
    processor = ["archive/v1/snapshot/*", "manifest/*", "models/*"]
    compactor = ["archive/v1/*", "manifest/v1/*"]
    trainer   = ["archive/v1/*", "manifest/v1/*", "models/*"]
  }
  write = {
    # The pointer and its history: it takes a version back that alarms everywhere.
    processor = ["archive/v1/*", "manifest/*", "models/*/champion.json", "models/*/history/*"]
    compactor = ["archive/v1/*", "manifest/v1/shard=*/compact/*"]
    trainer   = ["models/*"]
  }
  # No program may delete a manifest, a record or a model.
  delete = {
    processor = ["manifest/probe/*"]
    compactor = ["archive/v1/*", "manifest/v1/shard=*/compact/parts/*"]
    trainer   = []
  }

  statements = { for role in keys(local.read) : role => concat(
    [local.find],
    [
      { sid = "Read", actions = ["s3:GetObject"], resources = [for key in local.read[role] : "${local.bucket_arn}/${key}"] },
      { sid = "Write", actions = ["s3:PutObject"], resources = [for key in local.write[role] : "${local.bucket_arn}/${key}"] },
    ],
    length(local.delete[role]) == 0 ? [] : [
      { sid = "Delete", actions = ["s3:DeleteObject"], resources = [for key in local.delete[role] : "${local.bucket_arn}/${key}"] },
    ],
  ) }
}

output "statements" {
  description = "Role to IAM statements, S3 only"
  value       = local.statements
}
