variables {
  environment     = "prod"
  account_id      = "123456789012"
  vpc_cidr        = "10.40.0.0/16"
  zone_count      = 3
  shards          = 4
  node_type       = "m7g.xlarge"
  spot            = false
  protected       = true
  noncurrent_days = 30
  cold_days       = 90
}

run "names_carry_the_environment_and_buckets_the_account" {
  command = plan

  assert {
    condition     = output.name == "millwright-prod" && output.bucket == "millwright-prod-archive-123456789012"
    error_message = "${output.name}, ${output.bucket}"
  }
  assert {
    condition     = length(output.bucket) <= 63 && length(output.access_logs) <= 63 && output.access_logs != output.bucket
    error_message = "S3 takes 63 characters, and a bucket does not log into itself."
  }
  assert {
    condition     = output.repositories == { edge-agent = "millwright/edge-agent", stream-processor = "millwright/stream-processor" }
    error_message = jsonencode(output.repositories)
  }
}

run "subnets_are_one_of_each_per_zone_and_apart" {
  command = plan

  assert {
    condition     = output.private_subnets == ["10.40.0.0/19", "10.40.32.0/19", "10.40.64.0/19"]
    error_message = jsonencode(output.private_subnets)
  }
  # The private ones end at 10.40.127.255 even with four zones.
  assert {
    condition     = output.public_subnets == ["10.40.128.0/24", "10.40.129.0/24", "10.40.130.0/24"]
    error_message = jsonencode(output.public_subnets)
  }
}

run "four_zones_still_do_not_overlap" {
  command = plan
  variables {
    zone_count = 4
  }

  assert {
    condition     = output.private_subnets[3] == "10.40.96.0/19" && output.public_subnets[0] == "10.40.128.0/24"
    error_message = jsonencode([output.private_subnets, output.public_subnets])
  }
}

run "no_manifest_ever_expires" {
  command = plan

  # A rule that ends an object, or an older version of it, whose prefix is above or below manifest/v1/.
  assert {
    condition = alltrue([for rule in output.lifecycle_rules :
      !can(rule.expiration) && !can(rule.noncurrent_version_expiration) ||
      !startswith("manifest/v1/", rule.filter.prefix) && !startswith(rule.filter.prefix, "manifest/v1/")
    ])
    error_message = jsonencode(output.lifecycle_rules)
  }
  # What a manifest names is not ended by age either, only moved.
  assert {
    condition = alltrue([for rule in output.lifecycle_rules :
      !can(rule.expiration.days) || rule.filter.prefix == "manifest/probe/"
    ])
    error_message = jsonencode(output.lifecycle_rules)
  }
  assert {
    condition     = length([for rule in output.lifecycle_rules : rule if can(rule.transition)]) == 8
    error_message = "Every table becomes cold, and nothing else."
  }
}

run "without_cold_days_nothing_moves" {
  command = plan
  variables {
    cold_days = null
  }

  assert {
    condition     = length([for rule in output.lifecycle_rules : rule if can(rule.transition)]) == 0
    error_message = jsonencode(output.lifecycle_rules)
  }
}

run "nobody_deletes_manifests_records_or_models" {
  command = plan

  assert {
    condition = alltrue(flatten([for role, statements in output.statements : [for s in statements : [for resource in s.resources :
      !contains(s.actions, "s3:DeleteObject") || can(regex("/(archive/v1/|manifest/probe/|manifest/v1/shard=\\*/compact/parts/)\\*$", resource))
    ]]]))
    error_message = jsonencode(output.statements)
  }
  assert {
    condition     = alltrue(flatten([for statements in output.statements : [for s in statements : [for a in s.actions : !strcontains(a, "*")]]]))
    error_message = "Every action is named."
  }
  assert {
    condition     = alltrue(flatten([for statements in output.statements : [for s in statements : [for r in s.resources : startswith(r, "arn:aws:s3:::millwright-prod-archive-123456789012")]]]))
    error_message = "Every resource is in the one bucket."
  }
  # The trainer can break no reading, the processor no model: it may only say which one is in charge.
  assert {
    condition     = [for s in output.statements.trainer : s.resources if s.sid == "Write"][0] == ["arn:aws:s3:::millwright-prod-archive-123456789012/models/*"]
    error_message = jsonencode(output.statements.trainer)
  }
  assert {
    condition = [
      for r in [for s in output.statements.processor : s.resources if s.sid == "Write"][0] : regex("/models/.*", r) if strcontains(r, "models")
    ] == ["/models/*/champion.json", "/models/*/history/*"]
    error_message = jsonencode(output.statements.processor)
  }
}
