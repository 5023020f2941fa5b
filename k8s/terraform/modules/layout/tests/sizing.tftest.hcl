variables {
  environment     = "dev"
  account_id      = "123456789012"
  vpc_cidr        = "10.40.0.0/16"
  zone_count      = 2
  shards          = 1
  node_type       = "t4g.large"
  spot            = true
  protected       = false
  noncurrent_days = 3
}

run "dev_is_small_cheap_and_can_be_thrown_away" {
  command = plan

  # 3500 m of CPU in nodes of 1680 m.
  assert {
    condition     = output.nodes.desired_size == 3 && output.nodes.min_size == 2 && output.nodes.capacity_type == "SPOT"
    error_message = jsonencode(output.nodes)
  }
  assert {
    condition     = output.protection.force_destroy && output.protection.single_nat_gateway && !output.protection.deletion_protection
    error_message = jsonencode(output.protection)
  }
  assert {
    condition     = output.protection.automatic_deployments
    error_message = "dev follows the repository by itself."
  }
}

run "prod_survives_the_loss_of_a_zone" {
  command = plan
  variables {
    environment = "prod"
    zone_count  = 3
    shards      = 4
    node_type   = "m7g.xlarge"
    spot        = false
    protected   = true
  }

  # 5000 m in nodes of 3670 m are two; a third of three nodes may go.
  assert {
    condition     = output.nodes.desired_size == 3 && output.nodes.capacity_type == "ON_DEMAND"
    error_message = jsonencode(output.nodes)
  }
  assert {
    condition     = !output.protection.force_destroy && !output.protection.single_nat_gateway && output.protection.deletion_protection
    error_message = jsonencode(output.protection)
  }
  assert {
    condition     = !output.protection.automatic_deployments && output.protection.flow_logs
    error_message = "prod waits for a person."
  }
}

run "many_shards_count_the_scarcer_of_cpu_and_memory" {
  command = plan
  variables {
    environment = "prod"
    zone_count  = 3
    shards      = 64
    node_type   = "m7g.xlarge"
    spot        = false
    protected   = true
  }

  # 72.5 GB in nodes of 14 GB are six, 35 cores in nodes of 3.67 ten, and half as many again for the zone that is gone.
  assert {
    condition     = output.nodes.desired_size == 15 && output.nodes.max_size == 18
    error_message = jsonencode(output.nodes)
  }
}

run "protection_is_refused_on_spot_nodes" {
  command = plan
  variables {
    zone_count = 3
    protected  = true
  }
  expect_failures = [var.protected]
}

run "protection_is_refused_in_two_zones" {
  command = plan
  variables {
    spot      = false
    protected = true
  }
  expect_failures = [var.protected]
}

run "what_cannot_be_is_refused" {
  command = plan
  variables {
    environment     = "test"
    account_id      = "12"
    vpc_cidr        = "10.0.0.0/24"
    zone_count      = 1
    shards          = 0
    node_type       = "m5.large"
    noncurrent_days = 0
    cold_days       = 10
  }
  expect_failures = [
    var.environment, var.account_id, var.vpc_cidr, var.zone_count, var.shards, var.node_type, var.noncurrent_days, var.cold_days,
  ]
}
