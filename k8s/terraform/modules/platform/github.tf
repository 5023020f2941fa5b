# What the workflows may do here. They come with a token of GitHub that says which repository and which environment they run
# in; the environments have reviewers. No key is stored anywhere.
locals {
  github_provider = coalesce(var.github.provider_arn, one(aws_iam_openid_connect_provider.github[*].arn))

  # What promotes does what trains does, but only after a reviewer's approval.
  train_statements = concat(module.layout.statements.trainer, [local.key_statement])
  # A role and the GitHub environment whose jobs may assume it.
  github_roles = merge(
    { training = local.train_statements, promotion = local.train_statements },
    var.registry.create ? { images = local.push_statements } : {},
  )
  push_statements = [
    { sid = "Login", actions = ["ecr:GetAuthorizationToken"], resources = ["*"] },
    {
      sid = "Push"
      actions = [
        "ecr:BatchCheckLayerAvailability", "ecr:BatchGetImage", "ecr:CompleteLayerUpload", "ecr:GetDownloadUrlForLayer",
        "ecr:InitiateLayerUpload", "ecr:PutImage", "ecr:UploadLayerPart",
      ]
      resources = [for repository in module.registry : repository.repository_arn]
    },
  ]
}

resource "aws_iam_openid_connect_provider" "github" {
  count = var.github.provider_arn == null ? 1 : 0

  url            = "https://token.actions.githubusercontent.com"
  client_id_list = ["sts.amazonaws.com"]
  tags           = local.tags
}

data "aws_iam_policy_document" "github_trust" {
  for_each = local.github_roles

  statement {
    actions = ["sts:AssumeRoleWithWebIdentity"]

    principals {
      type        = "Federated"
      identifiers = [local.github_provider]
    }
    condition {
      test     = "StringEquals"
      variable = "token.actions.githubusercontent.com:aud"
      values   = ["sts.amazonaws.com"]
    }
    condition {
      test     = "StringEquals"
      variable = "token.actions.githubusercontent.com:sub"
      values   = ["repo:${var.github.repository}:environment:${each.key}"]
    }
  }
}

data "aws_iam_policy_document" "github" {
  for_each = local.github_roles
  #checkov:skip=CKV_AWS_356:ecr:GetAuthorizationToken knows no resources

  dynamic "statement" {
    for_each = each.value
    content {
      sid       = statement.value.sid
      actions   = statement.value.actions
      resources = statement.value.resources
    }
  }
}

resource "aws_iam_role" "github" {
  for_each = local.github_roles

  name                 = "${local.name}-github-${each.key}"
  description          = "Jobs of ${var.github.repository} in the environment ${each.key}"
  assume_role_policy   = data.aws_iam_policy_document.github_trust[each.key].json
  max_session_duration = 7200
  tags                 = local.tags
}

resource "aws_iam_role_policy" "github" {
  for_each = local.github_roles

  name   = each.key
  role   = aws_iam_role.github[each.key].id
  policy = data.aws_iam_policy_document.github[each.key].json
}
